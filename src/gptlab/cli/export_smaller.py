"""gptlab-export --format gptlab: a checkpoint in fewer bits, and what that costs."""

import copy
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from gptlab.cli.eval_output import TEXT_OF_RUN, Row
from gptlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gptlab.cli.export import ExportCommand
    from gptlab.data import TokenDataset
    from gptlab.evaluation import Subject, TokenScores
    from gptlab.model import GPT

_BITS = MappingProxyType({"int8": 8, "int4": 4})


def export_smaller(command: "ExportCommand", output: Path) -> list[Row]:
    """Write the checkpoint; what it is, and what it has lost."""
    from gptlab.checkpoint import named_model, save
    from gptlab.checkpoint.find import step_of
    from gptlab.evaluation import open_subject, score_tokens
    from gptlab.tokenizer.chat import template_in

    if command.quantize is None and command.precision is None:
        raise ConfigError(
            "nothing would change; write --quantize int8, or --precision bf16, or another --format"
        )
    source = named_model(command.model[0], command.runs_dir)
    # In float32, so that nothing is rounded but what is written.
    subject = open_subject(source, device=command.device, precision="fp32")
    _check(subject, output)
    datasets, problem = _text(command, subject)
    smaller = replace(subject, folder=output, model=_smaller(subject, command))
    scores = [
        score_tokens(one, datasets, batch_size=command.batch_size)
        for one in (subject, smaller)
        if datasets
    ]
    save(
        output,
        smaller.model,
        subject.tokenizer,
        # A model of another tool has made no steps that are known.
        step=int(max(0, step_of(subject.folder))),
        chat_template=template_in(subject.folder),
    )
    text = " ".join(command.data) or TEXT_OF_RUN
    losses = _loss_rows(text, *scores) if scores else [("loss", f"not measured: {problem}")]
    return [*_size_rows(subject, smaller), *losses]


def _check(subject: "Subject", output: Path) -> None:
    """Refuse what can't be exported, and where it can't be written, before any work."""
    from gptlab.checkpoint.files import require_replaceable

    if quantization := subject.model.quantization:
        raise ConfigError(
            f"{subject.folder} has {quantization.bits} bits a weight already; export the one it "
            "was made from"
        )
    if output.resolve() == subject.folder.resolve():
        raise ConfigError(f"--output {output} is the model itself; choose another folder")
    require_replaceable(output)


def _text(
    command: "ExportCommand", subject: "Subject"
) -> "tuple[tuple[TokenDataset, ...], str | None]":
    """What to measure the loss on; none of it, and why, where the run's own text is gone."""
    from gptlab.evaluation import held_out_text

    try:
        text = held_out_text(subject, command.data, runs_dir=command.runs_dir, field=command.field)
    except (ConfigError, DataError) as error:
        if command.data:
            raise
        return (), f"{error}; or name a text with --data"
    return text, None


def _smaller(subject: "Subject", command: "ExportCommand") -> "GPT":
    """The model that is to be written."""
    from gptlab.model.quantize import quantize

    if command.quantize is None:
        small = copy.deepcopy(subject.model)
    else:
        bits = _BITS[command.quantize]
        small = quantize(subject.model, bits=bits, group_size=command.group_size)
    if command.precision is None:
        return small
    return small.to(replace(subject.arithmetic, precision=command.precision).dtype)


def _size_rows(subject: "Subject", smaller: "Subject") -> list[Row]:
    """Where it is, how large, and how far its weights are from those of `subject`."""
    from gptlab.checkpoint.files import WEIGHTS
    from gptlab.evaluation.weight_error import weight_error

    file, after = subject.folder / WEIGHTS, (smaller.folder / WEIGHTS).stat().st_size
    if file.is_file():
        before = file.stat().st_size
    else:
        # In several files, or in one of another tool.
        before = sum(tensor.nbytes for tensor in subject.model.state_dict().values())
    error = weight_error(smaller.model, of=subject.model)
    return [
        ("model", str(subject.folder)),
        ("written to", str(smaller.folder)),
        ("weights", f"{size_in_words(before)} -> {size_in_words(after)}, {after / before:.1%}"),
        ("weight error", f"{error.root_mean_square:.3%} (root mean square)"),
        ("largest error", f"{error.largest:.3%} of the largest weight of {error.where}"),
    ]


def _loss_rows(text: str, before: "TokenScores", after: "TokenScores") -> list[Row]:
    """What the smaller weights do to the predictions."""
    rows = [("text", f"{text}, {before.tokens:,} tokens")]
    for name in ("loss", "perplexity"):
        old, new = getattr(before, name), getattr(after, name)
        change = f", {(new - old) / old:+.3%}" if old else ""
        rows.append((name, f"{old:.6g} -> {new:.6g}{change}"))
    return rows


def size_in_words(size: int) -> str:
    """Bytes, as a person reads them."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
