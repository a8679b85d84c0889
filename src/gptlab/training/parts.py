"""Parts of a run that differ between texts, hidden tokens of them, labels, and pairs."""

import hashlib
from collections.abc import Sequence
from fractions import Fraction

from gptlab.config import LossConfig, TrainConfig
from gptlab.data import TokenDataset, WindowSampler
from gptlab.data.labelled import LabelledSampler
from gptlab.data.masking import MaskedSampler, Masking
from gptlab.data.mixture import MixedSampler
from gptlab.data.pair_sampler import PairSampler
from gptlab.data.sampler import Sampler
from gptlab.model import Network
from gptlab.model.head import Head
from gptlab.model.stack import Stack
from gptlab.tokenizer import Tokenizer
from gptlab.training.head_objective import HeadObjective
from gptlab.training.inputs import Inputs, load_inputs
from gptlab.training.key_tokens import find_key_ids
from gptlab.training.labelled_inputs import load_labelled_inputs
from gptlab.training.masked_objective import MaskedObjective
from gptlab.training.objective import Objective
from gptlab.training.pair_inputs import load_pair_inputs
from gptlab.training.pair_objective import PairObjective
from gptlab.training.precision import Arithmetic
from gptlab.training.sources import Say

Mixture = tuple[tuple[WindowSampler, Fraction], ...]
"""A sampler for each source of training data, and its weight among them; none of labels."""


def read_inputs(
    config: TrainConfig, head: type[Head] | None, *, saved: Tokenizer | None, say: Say
) -> Inputs:
    """What a run reads: pairs, texts with labels if it trains a `head`, or texts alone."""
    if config.architecture == "transformer":
        return load_pair_inputs(config, saved=saved, say=say)
    if head is None:
        return load_inputs(config, saved=saved, say=say)
    return load_labelled_inputs(config, kind=head.targets, saved=saved, say=say)


def make_objective(
    config: TrainConfig, inputs: Inputs, model: Network, arithmetic: Arithmetic
) -> Objective:
    """What is minimised of `model`."""
    if inputs.labelled is not None:
        assert isinstance(model, Stack)
        return HeadObjective(model, arithmetic=arithmetic)
    kind = Objective if inputs.pairs is None else PairObjective
    if config.learns_masks:
        kind = MaskedObjective
    return kind(
        model,
        config.part(LossConfig),
        arithmetic=arithmetic,
        key_ids=find_key_ids(config.key_tokens, inputs.tokenizer).ids,
    )


def make_sampler(config: TrainConfig, inputs: Inputs, mixture: Mixture) -> Sampler:
    """What draws the batches."""
    if inputs.pairs is not None:
        return PairSampler(
            inputs.pairs.train,
            batch_size=config.batch_size if config.batch_tokens is None else None,
            batch_tokens=config.batch_tokens,
            seed=config.seed,
            shuffle=config.shuffle,
        )
    if inputs.labelled is None:
        windows = mixture[0][0] if len(mixture) == 1 else MixedSampler(mixture)
        if not config.learns_masks:
            return windows
        masking = Masking.of(inputs.tokenizer, config.mask_share)
        return MaskedSampler(windows, masking, seed=config.seed)
    return LabelledSampler(
        inputs.labelled.train,
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle=config.shuffle,
        # Code is compiled for one width alone.
        width=config.seq_len if config.compile == "on" else None,
    )


def fingerprints(inputs: Inputs) -> list[str]:
    """Digests of what is trained and evaluated on."""
    if inputs.examples is not None:
        return [inputs.examples.train.fingerprint(), inputs.examples.evaluation.fingerprint()]
    return [_fingerprint([data.dataset for data in inputs.train]), _fingerprint(inputs.evaluation)]


def _fingerprint(datasets: Sequence[TokenDataset]) -> str:
    digests = [dataset.fingerprint() for dataset in datasets]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()
