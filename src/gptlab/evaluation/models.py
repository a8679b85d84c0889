"""Which of two trained models predicts a text better, window by window.

Letters: B batch, T window length.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from gptlab.config import TrainConfig
from gptlab.data import TokenDataset, sequential_batches
from gptlab.errors import ConfigError
from gptlab.evaluation.comparison import Comparison, paired_difference, require_scipy
from gptlab.interop import find_model, load_gpt
from gptlab.model import GPT
from gptlab.training.inputs import load_inputs
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import target_losses
from gptlab.training.precision import Arithmetic, choose_arithmetic
from gptlab.training.run_settings import CONFIG, saved_config


def compare_models(
    a: str | Path, b: str | Path, *, device: str = "auto", precision: str = "auto"
) -> Comparison:
    """Compare two trained models on the evaluation text of A's run, in pairs of windows.

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
        *(load_gpt(path, device=arithmetic.device) for path in folders), strict=True
    )
    if tokenizers[0].fingerprint() != tokenizers[1].fingerprint():
        raise ConfigError(
            f"{names[0]} and {names[1]} have different tokenizers, so their windows are no pairs; "
            "compare their settings with --seeds, which measures bits per byte"
        )
    length, other = (model.config.seq_len for model in models)
    if other < length:
        raise ConfigError(
            f"the windows of {names[0]} have {length} tokens, but {names[1]} reads {other}; write "
            "them the other way round"
        )
    settings = [settings_of(folder) for folder in folders]
    inputs = load_inputs(settings[0], saved=tokenizers[0], say=lambda _line: None)
    losses = [
        window_losses(
            model,
            inputs.evaluation,
            length=length,
            config=config,
            arithmetic=arithmetic.of(model.dtype),
        )
        for model, config in zip(models, settings, strict=True)
    ]
    (nats_a, tokens), (nats_b, _) = losses
    return Comparison(
        a=names[0],
        b=names[1],
        paired_by="window",
        unit="nats per token",
        measures={"loss": paired_difference(nats_a, nats_b, tokens)},
        values={},
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


def settings_of(checkpoint: Path) -> TrainConfig:
    """The settings of the run that `checkpoint` lies in.

    Raises:
        ConfigError: It lies in none.
    """
    settings = saved_config(checkpoint.parent)
    if settings is None:
        raise ConfigError(
            f"{checkpoint} lies in no run, whose {CONFIG} would say what it is evaluated on; "
            "give a run, or a checkpoint in one"
        )
    return settings


def _names(given: Sequence[str | Path], folders: Sequence[Path]) -> tuple[str, str]:
    """What to call them: as they were given, or by their checkpoints if that is the same."""
    first, second = (Path(path).name for path in given)
    if first == second:
        first, second = map(str, folders)
    if folders[0].resolve() == folders[1].resolve():
        raise ConfigError(f"both are {folders[0]}; give two different models")
    return first, second
