"""What a run trains on and is evaluated on: texts and prepared datasets, weighted or not."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from gptlab.config import TrainConfig
from gptlab.config.training import AUTO
from gptlab.corpus import Corpus, open_corpus
from gptlab.data import TokenDataset
from gptlab.data.shards import is_dataset
from gptlab.errors import ConfigError

Say = Callable[[str], None]

Data = Corpus | TokenDataset
"""A text, or what was prepared of one."""


@dataclass(frozen=True)
class Source:
    """One of the things that a run trains on."""

    name: str
    train: Data
    evaluation: Data | None
    """What was held out of it; None where evaluation is on something else."""
    weight: Fraction | None
    """Of its windows among those of all sources; None for their number."""


def weighted_paths(names: Iterable[str]) -> list[tuple[str, Fraction | None]]:
    """Each "path" or "path:weight" in two; what exists as it stands has no weight.

    Raises:
        ConfigError: A weight is not a positive number, or some have one and others do not.
    """
    paths = [_weighted_path(name) for name in names]
    bare = [path for path, weight in paths if weight is None]
    if bare and len(bare) < len(paths):
        raise ConfigError(
            f"{bare[0]} has no weight, but others of train_data have one; write one for each, "
            f"as in {bare[0]}:0.5, or for none"
        )
    return paths


def open_sources(config: TrainConfig, say: Say) -> list[Source]:
    """What `train_data` names: texts without weights are one, as are those within a folder.

    Raises:
        DataError, ConfigError: Something is missing or does not fit.
    """
    paths = weighted_paths(config.train_data)
    groups: list[tuple[Sequence[str], Fraction | None]]
    groups = [([path], weight) for path, weight in paths if weight is not None or is_dataset(path)]
    if texts := [path for path, weight in paths if weight is None and not is_dataset(path)]:
        groups.insert(0, (texts, None))
    sources = []
    for names, weight in groups:
        whole = open_data(names, config, say)
        train, evaluation = whole, None
        if config.eval_data == AUTO:
            train, evaluation = _split(whole, config, say)
        sources.append(Source(_joined(names), train, evaluation, weight))
    return sources


def open_data(paths: Sequence[str], config: TrainConfig, say: Say) -> Data:
    """The prepared dataset, or the text in all of `paths`.

    Raises:
        DataError: There is none.
    """
    if is_dataset(paths[0]):
        return TokenDataset(paths[0])
    corpus = open_corpus(
        paths[0] if len(paths) == 1 else paths,
        field=config.field,
        errors=config.errors,
        conversations=config.chat_template is not None,
    )
    if corpus.skipped:
        say(
            f"left out: {corpus.skipped} file(s) under {_joined(paths)} that are binary, damaged "
            "or not UTF-8"
        )
    return corpus


def _weighted_path(name: str) -> tuple[str, Fraction | None]:
    path, colon, weight = name.rpartition(":")
    if not colon or Path(name).exists():
        return name, None
    try:
        number = float(weight)
    except ValueError:
        if not Path(path).exists():
            return name, None
        number = math.nan
    if not 0 < number < math.inf:
        raise ConfigError(
            f"the weight of {path} is '{weight}'; write a positive number, as in {path}:0.5"
        )
    return path, Fraction(weight)


def _split(whole: Data, config: TrainConfig, say: Say) -> tuple[Data, Data]:
    """What to train on, and what is held out of it."""
    if isinstance(whole, TokenDataset):
        if whole.dev is None:
            raise ConfigError(
                f"{whole.folder} has no part that was held out; prepare it again with --dev_size, "
                "or write --eval_data"
            )
        say(f"evaluation data: {whole.dev}, held out (--eval_data names another)")
        return whole, TokenDataset(whole.dev)
    kept, held_out = whole.split(config.dev_size)
    if whole.is_one_text:
        what = f"the last {config.dev_size:.0%}"
    elif whole.has_rows:
        what = f"about {config.dev_size:.0%} of the documents"
    else:
        what = f"{len(held_out.files)} of {len(whole.files)} files"
    roots = _joined([str(root) for root in whole.roots])
    say(f"evaluation text: {what} of {roots}, held out (--eval_data names another)")
    return kept, held_out


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
