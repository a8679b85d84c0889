"""What a run minimises, and how."""

from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from gptlab.config.model import Share
from gptlab.config.presets import OPTIMIZER_DEFAULTS
from gptlab.config.settings import Settings, Source, several
from gptlab.errors import ConfigError

OptimizerName = Literal["adamw", "muon", "sgd", "lion"]
ScheduleName = Literal["cosine", "linear", "wsd", "constant", "inverse_sqrt"]


class LossConfig(Settings):
    """What training minimises: cross entropy, and what weighs more in it."""

    key_tokens: Annotated[tuple[Source, ...], BeforeValidator(several)] = ()
    """Words of one token each that weigh more, as in plt,pd,sk, or a file with one a line."""
    key_mode: Literal["token", "sample"] = "token"
    """Whether the words themselves weigh more, or the windows that have them."""
    key_weight: PositiveFloat | None = None
    """token: weight of such a target, 2 if not given; sample: added for each in a window, 1."""
    label_smoothing: Share = 0.0
    """Share of each target's probability that is spread over the vocabulary."""
    z_loss: NonNegativeFloat = 0.0
    """Factor of the squared logarithm of the softmax's normaliser; 1e-4 is usual."""
    loss_chunk: PositiveInt | None = None
    """Tokens whose logits are held at once, which saves memory; all if not given."""


class OptimizerConfig(Settings):
    """The optimizer, and its learning rate over the run."""

    optimizer: OptimizerName = "adamw"
    """muon: for the matrices of the blocks, with adamw for the rest."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate; for lion 3e-4 and for sgd 0.1 if not given."""
    min_learning_rate: NonNegativeFloat | None = None
    """Learning rate at the end of the run; a tenth of the peak if not given."""
    schedule: ScheduleName = "cosine"
    """How the rate goes from peak to end; wsd (warmup, stable, decay) falls only at the end."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up; 100, or a tenth of a run under 1,000 steps, if not given."""
    warmup_share: Share | None = None
    """Warm-up as a share of the run instead."""
    decay_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Share of the run in which wsd falls."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled decay, of matrices only."""
    beta1: Share = 0.9
    """Decay of the first moment, in adamw and lion."""
    beta2: Share = 0.95
    """Decay of the second moment in adamw; of the only one in lion, 0.99 there if not given."""
    momentum: Share = 0.95
    """Momentum of muon and sgd; for sgd 0.9 if not given."""
    grad_clip: NonNegativeFloat = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay of an average of the weights, evaluated and saved in their place; none if not given."""

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_steps is not None and self.warmup_share is not None:
            raise ConfigError(
                "warmup_steps and warmup_share say the same thing in two ways; leave one of them "
                "out"
            )
        return self


def usual_rate(optimizer: str) -> float:
    """The learning rate of an optimizer where nobody gives one."""
    plain = OptimizerConfig.model_fields["learning_rate"].default
    rate: float = OPTIMIZER_DEFAULTS.get(optimizer, {}).get("learning_rate", plain)
    return rate
