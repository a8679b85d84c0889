"""gptlab-predict: what a model says of texts, as JSON lines."""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import NonNegativeFloat, PositiveInt, model_validator

from gptlab.cli.flags import CommandLine
from gptlab.cli.load_model import newest_run
from gptlab.cli.main import run
from gptlab.cli.output_file import check_file
from gptlab.config import SamplingConfig
from gptlab.config.heads import FIELDS_OF_WORDS, LANGUAGE_MODEL
from gptlab.config.settings import Seed, Source
from gptlab.errors import ConfigError, DataError

if TYPE_CHECKING:
    from gptlab.prediction import Continuation, ModelWithHead
    from gptlab.prediction.with_head import Text

_OF_LANGUAGE_MODELS = ("prompt_length", "max_new_tokens", "temperature", "seed")


class PredictCommand(CommandLine):
    """Say of each text what the model's head was trained to say, as a JSON object on a line.

    That is a label and probabilities, numbers, a label for each word, or a vector. A language model
    says how the text goes on, and an encoder without a head what may stand for each <MASK> in it.
    """

    model_path: Source | None = None
    """A run by name or folder, or a checkpoint; the newest run if not given."""
    data: Source | None = None
    """JSON lines (.jsonl), a table (.csv, .tsv), or else a file with a text on each line."""
    text: tuple[Source, ...] = ()
    """Texts, instead of a file."""
    field: Source = "text"
    """The key or the column that holds the text; tokens, for labels of words, if not given."""
    output: Source | None = None
    """File for the answers, which appears whole or not at all; standard output if not given."""
    prompt_length: PositiveInt | None = None
    """For a language model: tokens of each text to go on from; all if not given."""
    max_new_tokens: PositiveInt = 50
    """For a language model: tokens to go on with."""
    temperature: NonNegativeFloat = 0.0
    """For a language model: 0 takes the likeliest token, more draws."""
    seed: Seed = 0
    """Of what is drawn."""
    candidates: PositiveInt = 5
    """For an encoder: the likeliest tokens to tell for each <MASK>."""
    batch_size: PositiveInt = 32
    """Texts to read at once; they do not change each other's answers."""
    device: str = "auto"
    """cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    runs_dir: str = "runs"
    """Where to look for the newest run, and for runs that are given by name."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.data is not None and self.text:
            raise ConfigError("--data and --text exclude each other; write one of them")
        return self


def main() -> None:
    """Entry point of the command."""
    run(_predict, PredictCommand, prog="gptlab-predict")


def _predict(command: PredictCommand) -> None:
    if command.data is None and not command.text:
        raise ConfigError('there is nothing to read; write --data FILE or --text "..."')
    if command.output is not None:
        check_file(Path(command.output), flag="output", read=filter(None, [command.data]))
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.checkpoint import named_model
    from gptlab.prediction import ModelWithHead
    from gptlab.training.precision import choose_device

    runs = Path(command.runs_dir)
    path = newest_run(runs) if command.model_path is None else named_model(command.model_path, runs)
    model = ModelWithHead.load(path, device=choose_device(command.device))
    head = model.settings.head
    _require_used(command, head, path=path, architecture=model.backbone.architecture)
    texts = list(_texts(command, head))
    _write(_answers(command, model, texts), command.output)


def _require_used(
    command: PredictCommand, head: str, *, path: str | Path, architecture: str
) -> None:
    """Refuse flags that do nothing with this model."""
    has_head = head != LANGUAGE_MODEL
    kind = f"has a {head} head" if has_head else f"is of architecture {architecture}"
    writes = not has_head and architecture != "encoder"
    finds = not has_head and architecture == "encoder"
    used = {**dict.fromkeys(_OF_LANGUAGE_MODELS, writes), "candidates": finds}
    for name, does_something in used.items():
        if name in command.model_fields_set and not does_something:
            what = "encoders without a head" if name == "candidates" else "language models"
            raise ConfigError(f"--{name} is for {what}, but {path} {kind}; leave it out")


def _answers(
    command: PredictCommand, model: "ModelWithHead", texts: "list[Text]"
) -> list[dict[str, Any]]:
    if model.settings.head != LANGUAGE_MODEL:
        answers = model.predict(texts, batch_size=command.batch_size)
        # Words are in their answer already.
        return [
            answer if "tokens" in answer else {"text": text, **answer}
            for text, answer in zip(texts, answers, strict=True)
        ]
    from gptlab.model import Encoder
    from gptlab.prediction import continue_texts, fill_masks

    plain = [text for text in texts if isinstance(text, str)]
    if isinstance(model.backbone, Encoder):
        filled = fill_masks(
            model.backbone,
            model.tokenizer,
            plain,
            candidates=command.candidates,
            batch_size=command.batch_size,
        )
        return [asdict(one) for one in filled]
    config = SamplingConfig(
        max_new_tokens=command.max_new_tokens, temperature=command.temperature, seed=command.seed
    )
    found = continue_texts(
        model.backbone,
        model.tokenizer,
        plain,
        config,
        command.batch_size,
        prompt_length=command.prompt_length,
    )
    _say_how_right(found)
    return [asdict(continuation) for continuation in found]


def _say_how_right(found: "list[Continuation]") -> None:
    shares = [one.share_right for one in found if one.share_right is not None]
    if shares:
        mean = sum(shares) / len(shares)
        print(f"next tokens right: {mean:.1%}, the mean of {len(shares):,} texts", file=sys.stderr)


def _texts(command: PredictCommand, head: str) -> "Iterator[Text]":
    """The texts to read.

    Raises:
        DataError: The file can't be read, or a row has no text; the message names its line.
    """
    if command.data is None:
        yield from command.text
        return
    from gptlab.corpus.records import has_rows, read_records

    path = Path(command.data)
    if not has_rows(path):
        yield from _lines(path)
        return
    takes_words = head == "token_classification"
    field = command.field
    if takes_words and "field" not in command.model_fields_set:
        field = FIELDS_OF_WORDS["field"]
    for record in read_records(path):
        value = record.value(field)
        is_words = isinstance(value, list) and all(isinstance(word, str) for word in value)
        if not isinstance(value, str) and not (takes_words and is_words):
            raise DataError(
                f"{record.place}: field '{field}' is no string; name the text's field with --field"
            )
        yield value


def _lines(path: Path) -> Iterator[str]:
    from gptlab.corpus.formats import text_pieces

    # Lines end as in a file that is opened as a text, and nowhere else.
    text = "".join(text_pieces(path, errors="strict")).replace("\r\n", "\n")
    yield from text.removeprefix("\ufeff").removesuffix("\n").split("\n")


def _write(answers: Iterable[dict[str, Any]], output: str | None) -> None:
    text = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    if output is None:
        print(text, end="")
        return
    from gptlab.training.files import replace_text

    replace_text(Path(output), text)


if __name__ == "__main__":
    main()
