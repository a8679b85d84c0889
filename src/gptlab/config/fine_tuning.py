"""What a run begins with that is trained already, and which part of it goes on learning."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, PositiveFloat, PositiveInt, model_validator

from gptlab.config.model import Share
from gptlab.config.settings import Settings, Source, several
from gptlab.errors import ConfigError

PROJECTIONS = ("qkv_proj", "o_proj", "up_proj", "gate_proj", "down_proj")
"""The matrices of a block, by the names that a model has for them."""

LoRABase = Literal["full", "int8"]


class LoRA(Settings):
    """Small matrices beside those of a model, which learn in their place.

    LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685.
    """

    rank: PositiveInt
    """Width of what the two small matrices have between them."""
    alpha: PositiveFloat
    """Their product counts alpha / rank times."""
    dropout: Share = 0.0
    """Share of their inputs dropped while training."""
    modules: tuple[str, ...]
    """Names of the projections that have them."""
    base: LoRABase = "full"
    """int8: the other matrices of the blocks have 8 bits a weight."""
    vocab_size: PositiveInt
    """Ids of the model that was adapted; the new rows of further ones belong to the adapters."""
    fingerprint: str
    """Digest of the weights of that model."""

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / self.rank


class FineTuneConfig(Settings):
    """Going on from a model that is trained already."""

    init_from: Source | None = None
    """A model to go on from: a run, a checkpoint, or what else gptlab.load takes."""
    train_last_layers: PositiveInt | None = None
    """Train the last so many blocks, the last norm and an own head alone; all if not given."""
    lora_rank: PositiveInt | None = None
    """Train small matrices of this rank beside those of the blocks, and nothing else."""
    lora_alpha: PositiveFloat | None = None
    """Their product counts lora_alpha / lora_rank times; 2 x lora_rank if not given."""
    lora_dropout: Share = 0.0
    """Share of their inputs dropped while training."""
    lora_modules: Annotated[tuple[Source, ...], BeforeValidator(several)] = ()
    """Which projections have them: qkv_proj o_proj up_proj gate_proj down_proj; all if none."""
    lora_base: LoRABase = "full"
    """int8 keeps the other matrices of the blocks in 8 bits a weight."""
    special_tokens: Annotated[tuple[Source, ...], BeforeValidator(several)] = ()
    """Tokens to add to the model's vocabulary, looked for in every text, as in <python>."""
    lower_case: bool = False
    """Make text lower case before it is encoded, from now on and wherever the model is used."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.lora_rank is None:
            # Whatever the value is, who gives one means LoRA.
            for name in ("lora_alpha", "lora_dropout", "lora_modules", "lora_base"):
                if getattr(self, name) != FineTuneConfig.model_fields[name].default:
                    raise ConfigError(f"{name} does nothing without lora_rank; write --lora_rank 8")
        elif self.train_last_layers is not None:
            raise ConfigError(
                "train_last_layers and lora_rank exclude each other: LoRA trains no layer itself; "
                "leave one of them out"
            )
        for name in self.lora_modules:
            if name not in PROJECTIONS:
                raise ConfigError(
                    f"lora_modules has '{name}', which is no projection; choose from "
                    f"{', '.join(PROJECTIONS)}"
                )
        return self

    def require_model(self) -> None:
        """Refuse what only a model that is trained already can have, where none is named.

        Raises:
            ConfigError: There is such a setting.
        """
        for name in ("train_last_layers", "lora_rank", "special_tokens"):
            if self.init_from is None and getattr(self, name):
                raise ConfigError(
                    f"{name} is for a model that is trained already; name it with --init_from"
                )
