"""Which of two trained models predicts a text better, window by window, or targets, pair by pair.

Of encoders, hidden tokens of the text.

Letters: B batch, T window length.
"""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from gptlab.config import TrainConfig
from gptlab.data import TokenDataset, sequential_batches
from gptlab.errors import ConfigError
from gptlab.evaluation.comparison import Comparison, paired_difference, require_scipy
from gptlab.evaluation.inspected import settings_of
from gptlab.evaluation.masked import masking_of, scores_of_windows
from gptlab.evaluation.pairs import dataset_of, scores_of_rows
from gptlab.interop import find_model, load
from gptlab.interop.loading import require_gpt
from gptlab.model import GPT, Network
from gptlab.tokenizer import Tokenizer
from gptlab.training.inputs import load_inputs
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import target_losses
from gptlab.training.pair_inputs import held_out_pairs
from gptlab.training.precision import Arithmetic, choose_arithmetic
from gptlab.training.run_settings import saved_config

_PAIRS_AT_ONCE = 64
_OTHER_TOKENIZERS = MappingProxyType(
    {
        "gpt": "so their windows are no pairs; compare their settings with --seeds, which measures "
        "bits per byte",
        "encoder": "so that other things are hidden from them; compare what they are good for, "
        "with a head on each",
        "transformer": "whose losses say nothing of each other; compare what they write, with "
        "gptlab-eval --translations all",
    }
)


def compare_models(
    a: str | Path, b: str | Path, *, device: str = "auto", precision: str = "auto"
) -> Comparison:
    """Compare two trained models on the evaluation text of A's run, in pairs of windows.

    Of two Transformers, each of its pairs of texts takes the place of a window. Of two encoders,
    what they make of tokens that are hidden from both.

    The interval is about the text: whether the difference holds for more text of this kind. Whether
    it holds for other seeds, `compare` tells.

    Args:
        a: A run, or a checkpoint in one; "RUN/best" is its best.
        b: Another, with the same tokenizer.
        device: cpu, cuda, ...; 'auto' takes a GPU where there is one.
        precision: Arithmetic of matrix products; a model in 16 bits has its own.

    Raises:
        GptlabError: One of them is missing or damaged, or they do not fit together.
    """
    require_scipy()
    arithmetic = choose_arithmetic(device, precision)
    folders = [find_model(path) for path in (a, b)]
    names = _names([a, b], folders)
    models, tokenizers = zip(
        *(load(path, device=arithmetic.device) for path in folders), strict=True
    )
    _require_comparable(names, models, tokenizers)
    kind = models[0].architecture
    (nats_a, tokens), (nats_b, _) = _LOSSES[kind](models, tokenizers[0], folders, arithmetic)
    return Comparison(
        a=names[0],
        b=names[1],
        paired_by="pair" if kind == "transformer" else "window",
        unit="nats per hidden token" if kind == "encoder" else "nats per token",
        measures={"loss": paired_difference(nats_a, nats_b, tokens)},
        values={},
    )


def _require_comparable(
    names: Sequence[str], models: Sequence[Network], tokenizers: Sequence[Tokenizer]
) -> None:
    """Refuse two models whose losses are not of the same things.

    Raises:
        ConfigError: They differ in kind, in tokenizer, or in what the second one can read.
    """
    kind, other_kind = (model.architecture for model in models)
    if kind != other_kind:
        raise ConfigError(
            f"{names[0]} is of architecture {kind}, {names[1]} is of architecture {other_kind}; "
            "give two of one kind"
        )
    if tokenizers[0].fingerprint() != tokenizers[1].fingerprint():
        raise ConfigError(
            f"{names[0]} and {names[1]} have different tokenizers, {_OTHER_TOKENIZERS[kind]}"
        )
    length, other = (model.config.seq_len for model in models)
    if other < length:
        raise ConfigError(
            f"the windows of {names[0]} have {length} tokens, but {names[1]} reads {other}; write "
            "them the other way round"
        )


Losses = tuple[Sequence[float], Sequence[float]]


def _pair_losses(
    models: Sequence[Network], tokenizer: Tokenizer, folders: Sequence[Path], arithmetic: Arithmetic
) -> list[Losses]:
    """Nats and tokens of each pair that the first one's run is evaluated on."""
    pairs = held_out_pairs(settings_of(folders[0]))
    dataset = dataset_of(pairs, tokenizer, length=models[0].config.seq_len)
    rows = [
        scores_of_rows(
            model, dataset, arithmetic=arithmetic.of(model.dtype), batch_size=_PAIRS_AT_ONCE
        )
        for model in models
    ]
    return [(rows_R4[:, 0].tolist(), rows_R4[:, 1].tolist()) for rows_R4 in rows]


def _masked_losses(
    models: Sequence[Network], tokenizer: Tokenizer, folders: Sequence[Path], arithmetic: Arithmetic
) -> list[Losses]:
    """Nats and hidden tokens of each window that the first one's run is evaluated on."""
    settings = settings_of(folders[0])
    inputs = load_inputs(settings, saved=tokenizer, say=lambda _line: None)
    rows = [
        scores_of_windows(
            model,
            inputs.evaluation,
            masking_of(tokenizer, settings),
            length=models[0].config.seq_len,
            arithmetic=arithmetic.of(model.dtype),
            batch_size=settings.batch_size,
        )
        for model in models
    ]
    return [(rows_R3[:, 0].tolist(), rows_R3[:, 1].tolist()) for rows_R3 in rows]


def _window_losses(
    models: Sequence[Network], tokenizer: Tokenizer, folders: Sequence[Path], arithmetic: Arithmetic
) -> list[Losses]:
    """Those of each window of the text that the first one's run is evaluated on."""
    gpts = [require_gpt(model, folder) for model, folder in zip(models, folders, strict=True)]
    settings = [settings_of(folder) for folder in folders]
    inputs = load_inputs(settings[0], saved=tokenizer, say=lambda _line: None)
    return [
        window_losses(
            gpt,
            inputs.evaluation,
            length=gpts[0].config.seq_len,
            config=config,
            arithmetic=arithmetic.of(gpt.dtype),
        )
        for gpt, config in zip(gpts, settings, strict=True)
    ]


_LOSSES = MappingProxyType(
    {"gpt": _window_losses, "encoder": _masked_losses, "transformer": _pair_losses}
)


def window_losses(
    model: GPT,
    datasets: Sequence[TokenDataset],
    *,
    length: int,
    config: TrainConfig,
    arithmetic: Arithmetic,
) -> tuple[list[float], list[float]]:
    """Nats of each window of `datasets`, and how many tokens it predicts.

    The windows are those of an evaluation, `length` tokens each; together they are its loss.

    Args:
        model: In evaluation mode.
        datasets: One after another.
        length: Tokens of a window.
        config: Settings of the model's run: its batch size, masks and positions.
        arithmetic: How to compute, and on which device.
    """
    nats: list[float] = []
    tokens: list[float] = []
    for dataset in datasets:
        batches = sequential_batches(
            dataset,
            seq_len=length,
            batch_size=config.batch_size,
            document_mask=config.document_mask,
            reset_positions=config.reset_positions,
        )
        for arrays in batches:
            batch = DeviceBatch.of(arrays).each(lambda part: part.to(arithmetic.device))
            losses_BT, weights_BT = _token_losses(model, batch, arithmetic)
            nats += (losses_BT * weights_BT).sum(1).tolist()
            tokens += weights_BT.sum(1).tolist()
    return nats, tokens


@torch.no_grad()
def _token_losses(
    model: GPT, batch: DeviceBatch, arithmetic: Arithmetic
) -> tuple[torch.Tensor, torch.Tensor]:
    with arithmetic.autocast():
        logits_BTV = model(batch.inputs, documents=batch.documents, positions=batch.positions)
    losses_BT = target_losses(logits_BTV, batch.targets).nats
    return losses_BT, torch.ones_like(losses_BT) if batch.weights is None else batch.weights


def _names(given: Sequence[str | Path], folders: Sequence[Path]) -> tuple[str, str]:
    """What to call them: as they were given, or by their checkpoints if that is the same."""
    first, second = map(_name, given)
    if first == second:
        first, second = map(str, folders)
    if folders[0].resolve() == folders[1].resolve():
        raise ConfigError(f"both are {folders[0]}; give two different models")
    return first, second


def _name(given: str | Path) -> str:
    """The last part of what was given; of a checkpoint in a run, that of the run as well."""
    path = Path(given)
    return path.name if saved_config(path.parent) is None else f"{path.parent.name}/{path.name}"
