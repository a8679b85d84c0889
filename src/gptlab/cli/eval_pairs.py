"""How gptlab-eval measures a Transformer: on pairs of texts."""

import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from gptlab.cli.eval_output import Row, share, with_error
from gptlab.cli.flags import CommandLine
from gptlab.config.settings import Source
from gptlab.errors import ConfigError

if TYPE_CHECKING:
    from gptlab.data.pairs import PairDataset
    from gptlab.evaluation.inspected import Inspected
    from gptlab.evaluation.pairs import PairScores, WrittenScores

_PAIRS = 64


class PairChoice(CommandLine):
    """The flags for a Transformer."""

    target_data: tuple[Source, ...] = ()
    """Of a Transformer: files of targets, if --data has sources alone, line by line."""
    src_field: Source | None = None
    """The key or the column that holds the source, where a file has rows; as the run says if not
    given."""
    tgt_field: Source | None = None
    """That of the target."""
    translations: PositiveInt | Literal["all"] | None = None
    """Also write the targets of the first so many sources, and say how near they are."""
    num_beams: PositiveInt | None = None
    """Search for them with so many beams; greedy if not given."""
    length_penalty: Annotated[float, Field(ge=-10.0, le=10.0)] = 1.0
    """What beams are ranked by: log-probability / length ** length_penalty."""
    write: Source | None = None
    """File for the targets that are written, one a line; all if --translations is not given."""

    def check_pairs(self, given: AbstractSet[str]) -> None:
        """See that the flags among those `given` fit together.

        Raises:
            ConfigError: They do not.
        """
        if self.target_data and "data" not in given:
            raise ConfigError(
                f"--target_data is {self.target_data[0]}, but nothing says where its sources are; "
                "write --data with their file"
            )
        for name in ("src_field", "tgt_field"):
            if name in given and "data" not in given:
                raise ConfigError(
                    f"--{name} is {getattr(self, name)}, but the pairs are those of the run; write "
                    "--data with a file, or leave it out"
                )
        if "length_penalty" in given and self.num_beams is None:
            raise ConfigError(
                f"--length_penalty is {self.length_penalty}, but it ranks beams; write --num_beams "
                "too, or leave it out"
            )
        if self.num_beams is not None and not self.is_writing:
            raise ConfigError(
                f"--num_beams is {self.num_beams}, but no targets are to be written; write "
                "--translations all, or leave it out"
            )

    @property
    def is_writing(self) -> bool:
        """Whether targets are to be written."""
        return self.translations is not None or self.write is not None


def pair_figures(
    command: PairChoice,
    found: "Inspected",
    *,
    data: tuple[str, ...],
    batch_size: int | None,
    max_new_tokens: int | None,
) -> dict[str, Any]:
    """Figures of pairs, the rows of their table, and the targets that are written.

    Args:
        command: The flags for a Transformer.
        found: The model.
        data: Files of pairs or of sources; none for those of the model's run.
        batch_size: Pairs at once; 64 if None.
        max_new_tokens: The most of a target that is written.
    """
    from gptlab.corpus.pairs import PairFields
    from gptlab.evaluation.pairs import pairs_named, score_pairs

    settings = found.settings
    usual = PairFields() if settings is None else PairFields(settings.src_field, settings.tgt_field)
    fields = PairFields(command.src_field or usual.source, command.tgt_field or usual.target)
    dataset = pairs_named(found, data, targets=command.target_data, fields=fields)
    rows_at_once = batch_size or _PAIRS
    scores = score_pairs(found, dataset, batch_size=rows_at_once)
    where = " ".join(data) or "the evaluation pairs of its run"
    figures: dict[str, Any] = {"data": data, "pairs": scores}
    rows = _read_rows(scores, where)
    if command.is_writing:
        targets, written = _written(command, found, dataset, rows_at_once, max_new_tokens)
        rows += _written_rows(written, command)
        figures |= {"num_beams": command.num_beams, "written": written, "targets": targets}
    return {"rows": rows, **figures}


def _written(
    command: PairChoice,
    found: "Inspected",
    dataset: "PairDataset",
    batch_size: int,
    max_new_tokens: int | None,
) -> "tuple[list[str], WrittenScores]":
    from gptlab.evaluation.pairs import score_written, write_pairs

    asked = command.translations
    count = min(asked, len(dataset)) if isinstance(asked, int) else len(dataset)
    sources, expected = zip(*map(dataset.texts, range(count)), strict=True)
    start = time.perf_counter()
    written = write_pairs(
        found,
        sources,
        batch_size=batch_size,
        beams=command.num_beams,
        length_penalty=command.length_penalty,
        max_new_tokens=max_new_tokens,
    )
    seconds = time.perf_counter() - start
    return written, score_written(written, expected, seconds=seconds)


def write_targets(file: Path, targets: Sequence[str]) -> None:
    """Write what the model made of the sources, one a line."""
    from gptlab.cli.targets import as_line
    from gptlab.training.files import replace_text

    replace_text(file, "".join(f"{as_line(text)}\n" for text in targets))


def _read_rows(scores: "PairScores", where: str) -> list[Row]:
    left_out = f", {scores.left_out:,} more left out as too long" if scores.left_out else ""
    return [
        ("pairs", f"{scores.pairs:,} of {where}{left_out}"),
        ("tokens", f"{scores.tokens:,} of targets"),
        ("loss", f"{with_error(scores.loss, scores.loss_error)} nats per token"),
        ("perplexity", f"{scores.perplexity:.4g}"),
        ("tokens right", share(scores.token_accuracy, scores.token_accuracy_error)),
        ("targets right", share(scores.sequence_accuracy, scores.sequence_accuracy_error)),
        ("read", f"{scores.pairs_per_second:,.0f} pairs/s"),
    ]


def _written_rows(written: "WrittenScores", command: PairChoice) -> list[Row]:
    from gptlab.training.translations import SACREBLEU

    how = "greedily" if command.num_beams is None else f"with {command.num_beams} beams"
    rows = [
        ("written", f"{written.targets:,} {how}, {written.pairs_per_second:,.0f} pairs/s"),
        ("exact match", share(written.exact, written.exact_error)),
    ]
    if written.scores is None:
        rows.append(("BLEU, chrF", f"not known without {SACREBLEU}"))
    else:
        rows += [
            ("BLEU", f"{written.scores.bleu:.2f}"),
            ("chrF", f"{written.scores.chrf:.2f}"),
            ("signature", written.scores.signature),
        ]
    return [*rows, ("written to", command.write)] if command.write is not None else rows
