"""Sources to a dataset: the road from its beginning to its end."""

import hashlib
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gptlab.config import FilterConfig, PrepareConfig
from gptlab.corpus import Corpus, open_corpus
from gptlab.corpus.filters import DocumentFilter
from gptlab.data.preparation.collect import Collector, Counts
from gptlab.data.preparation.examine import Examined, Examiner
from gptlab.data.preparation.finish import Report, finish
from gptlab.data.preparation.inputs import STANDARD_INPUT, spooled
from gptlab.data.preparation.journal import Journal, workplace
from gptlab.data.preparation.reading import TRAIN, Place, Reader, sections_of
from gptlab.data.shard_files import VERSION
from gptlab.data.shards import is_dataset
from gptlab.data.staging import publish, writing
from gptlab.errors import ConfigError, DataError
from gptlab.parallel import batched, parallel_map
from gptlab.tokenizer import Tokenizer, load_tokenizer

_BATCH_CHARACTERS = 1 << 20
_NAMED_REASONS = 3
# What may change between a preparation that was cut off and the one that goes on with it.
_FREE = {"output", "overwrite", "processes", "quiet", "sources", "tokenizer"}


@dataclass(frozen=True)
class PrepareResult:
    """What a preparation came to."""

    path: Path
    """The dataset's folder, which `gptlab-train --train_data` takes."""
    report: Report
    resumed: bool
    """Whether it went on from where a former one was cut off."""


def prepare(config: PrepareConfig, *, tokenizer: Tokenizer | None = None) -> PrepareResult:
    """Make a dataset of tokens from texts, as `config` says.

    The dataset appears whole or not at all. A preparation that is cut off, even by SIGKILL, goes
    on when it is called again with the same settings, and the outcome is the same, byte for byte,
    as if it had not been; the number of processes changes nothing either.

    Args:
        config: What is asked for.
        tokenizer: Used instead of the one that `config` names.

    Raises:
        ConfigError: A setting is missing or does not fit.
        DataError: A source does not exist, there is nothing to keep in them, or something else is
            at the output.
        TokenizerError: The tokenizer can't be loaded.
        WorkerError: A worker process was killed.
    """
    output = _checked_output(config)
    tokenizer = tokenizer or _named_tokenizer(config)
    if config.mode == "chunk" and config.short == "pad" and tokenizer.pad_id is None:
        raise ConfigError("short is 'pad', but the tokenizer has no such token; write --short keep")
    unfinished = output.with_name(f"{output.name}.unfinished")
    with writing(output), workplace(unfinished):
        corpus = _open(config, unfinished)
        journal = Journal(unfinished, _job(config, corpus, tokenizer))
        place, state = journal.begin(overwrite=config.overwrite)
        collector = Collector(journal, config=config, tokenizer=tokenizer, state=state)
        with closing(collector):
            _run(config, corpus, tokenizer, place=place, collector=collector, journal=journal)
        if not collector.counts.kept_documents[TRAIN]:
            journal.end()
            raise DataError(_nothing_kept(collector.counts, corpus))
        report = finish(collector, config=config, corpus=corpus, tokenizer=tokenizer)
        publish(journal.dataset, output)
        journal.end()
    return PrepareResult(output, report, resumed=state is not None)


def _run(
    config: PrepareConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    place: Place,
    collector: Collector,
    journal: Journal,
) -> None:
    filters = config.part(FilterConfig)
    signed = config.near_duplicates is not None
    reader = Reader(
        sections_of(corpus, dev_size=config.dev_size if config.split == "documents" else 0.0),
        fraction=config.fraction,
        seed=config.seed,
        divisible=tokenizer.divisible,
        judged=DocumentFilter(filters).is_active or signed,
    )
    batches = batched(reader.items(place), _BATCH_CHARACTERS, length=lambda item: len(item.text))
    # What a tokenizer works out when it is first used, workers that are forked get from here.
    tokenizer.encode_to_array("")
    examine = partial(Examiner, tokenizer, filters, signed)
    results = parallel_map(examine, batches, processes=config.processes)
    with closing(results), _bar(config, corpus) as bar:
        for examined in _each(results):
            if collector.is_full:
                break
            collector.take(examined)
            place = examined.item.next
            bar.update(examined.item.stored - bar.n)
            if journal.is_due:
                journal.note(place, collector.state())
    # A kill while the datasets are completed must find a state that fits them.
    journal.note(place, collector.state())


def _each(batches: Iterator[list[Examined]]) -> Iterator[Examined]:
    for batch in batches:
        yield from batch


def _bar(config: PrepareConfig, corpus: Corpus) -> "tqdm[Any]":
    return tqdm(
        total=corpus.stored_size,
        desc="preparing",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=config.quiet or not sys.stderr.isatty(),
    )


def _checked_output(config: PrepareConfig) -> Path:
    if config.output is None:
        raise ConfigError("there is no output; name the dataset's folder with --output")
    if not config.sources:
        raise ConfigError(
            "there is no source; name files and folders, or - for standard input, in front of the "
            "flags"
        )
    output = Path(config.output)
    if not output.exists():
        return output
    if not is_dataset(output) and not (output.is_dir() and not any(output.iterdir())):
        raise DataError(f"{output} is no dataset, so it is not replaced; choose another --output")
    if is_dataset(output) and not config.overwrite:
        raise DataError(f"{output} exists already; write --overwrite to replace it, or --output")
    return output


def _named_tokenizer(config: PrepareConfig) -> Tokenizer:
    if config.tokenizer is None:
        raise ConfigError(
            "there is no tokenizer; train one with gptlab-tokenize --train, and name it with "
            "--tokenizer"
        )
    return load_tokenizer(config.tokenizer)


def _open(config: PrepareConfig, unfinished: Path) -> Corpus:
    sources = [
        spooled(unfinished / "standard input", name=config.input_name)
        if source == STANDARD_INPUT
        else source
        for source in config.sources
    ]
    return open_corpus(
        sources,
        field=config.field,
        errors=config.errors,
        include=config.include,
        gitignore=config.gitignore,
        check=False,
    )


def _job(config: PrepareConfig, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Any]:
    """All that decides the result, each under the name by which a user knows it."""
    settings = config.model_dump(mode="json", exclude=_FREE)
    listing = hashlib.sha256()
    for line in corpus.listing():
        listing.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return {
        **settings,
        "tokenizer": tokenizer.fingerprint(),
        "the sources": listing.hexdigest(),
        "the format": VERSION,
    }


def _nothing_kept(counts: Counts, corpus: Corpus) -> str:
    reasons = [f"{count:,} {reason}" for reason, count in counts.left_out.most_common()]
    return (
        f"no document of {corpus.root} is kept for training: "
        f"{', '.join(reasons[:_NAMED_REASONS]) or 'there is none'}; "
        "change the filters, or give other sources"
    )
