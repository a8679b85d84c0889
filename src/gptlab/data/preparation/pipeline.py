"""Sources to a dataset: the road from its beginning to its end."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gptlab.config import FilterConfig, PrepareConfig
from gptlab.corpus import Corpus, open_corpus
from gptlab.corpus.filters import DocumentFilter
from gptlab.data.preparation.collect import Collector
from gptlab.data.preparation.control import ControlTokens
from gptlab.data.preparation.examine import Examiner
from gptlab.data.preparation.finish import Report, finish
from gptlab.data.preparation.inputs import STANDARD_INPUT, spooled
from gptlab.data.preparation.journal import Journal, unfinished_folder, workplace
from gptlab.data.preparation.reading import DEV, TRAIN, Item, Place, Reader, sections_of
from gptlab.data.shard_files import VERSION
from gptlab.data.staging import check_output, publish, writing
from gptlab.errors import ConfigError, DataError
from gptlab.parallel import batched, parallel_map
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.tokenizer.chat import (
    ChatEncoder,
    ChatTemplate,
    find_template,
    with_template_tokens,
)

_BATCH_CHARACTERS = 1 << 20
_ITEM_CHARACTERS = 256
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
        ConfigError: A setting is missing or does not fit, or the tokenizer lacks a control token.
        DataError: A source does not exist, there is nothing to keep in them, or something else is
            at the output.
        TokenizerError: The tokenizer can't be loaded.
        WorkerError: A worker process was killed.
    """
    output = _output(config)
    check_output(output, overwrite=config.overwrite)
    tokenizer = tokenizer or _named_tokenizer(config)
    template = None if config.chat_template is None else find_template(config.chat_template)
    if template is not None:
        tokenizer = with_template_tokens(tokenizer, template)
        ChatEncoder(template, tokenizer)
    if config.mode == "chunk" and config.short == "pad" and tokenizer.pad_id is None:
        raise ConfigError("short is 'pad', but the tokenizer has no such token; write --short keep")
    unfinished = unfinished_folder(output)
    with workplace(unfinished):
        # Another process may have been at work until now.
        check_output(output, overwrite=config.overwrite)
        corpus = _open(config, unfinished)
        control = ControlTokens(config, tokenizer, files=corpus.files)
        journal = Journal(unfinished, _job(config, corpus, tokenizer, template))
        with writing(output):
            place, state = journal.begin(overwrite=config.overwrite)
            collector = _collector(journal, config, tokenizer, state)
        with closing(collector):
            examine = partial(
                Examiner,
                tokenizer,
                config.part(FilterConfig),
                signed=config.near_duplicates is not None,
                control=control,
                template=template,
            )
            # What a tokenizer works out when it is first used, workers that are forked get from
            # here.
            tokenizer.encode_to_array("")
            _run(
                config,
                _reader(config, corpus, tokenizer, control).items(place),
                examine,
                place=place,
                collector=collector,
                journal=journal,
                size=corpus.stored_size,
            )
        for part in collector.writers:
            if not collector.counts.kept_documents[part]:
                journal.end()
                raise DataError(_nothing_kept(part, collector, corpus))
        with writing(output):
            report = finish(
                collector, config=config, corpus=corpus, tokenizer=tokenizer, template=template
            )
            check_output(output, overwrite=config.overwrite)
            publish(journal.dataset, output)
            journal.end()
    return PrepareResult(output, report, resumed=state is not None)


def _collector(
    journal: Journal, config: PrepareConfig, tokenizer: Tokenizer, state: dict[str, Any] | None
) -> Collector:
    try:
        return Collector(journal, config=config, tokenizer=tokenizer, state=state)
    except DataError as error:
        if state is None:
            raise
        raise DataError(
            f"{error}, so that the preparation can't go on; remove {journal.folder}"
        ) from None


def _reader(
    config: PrepareConfig, corpus: Corpus, tokenizer: Tokenizer, control: ControlTokens
) -> Reader:
    is_filtered = DocumentFilter(config.part(FilterConfig)).is_active
    return Reader(
        sections_of(corpus, dev_size=config.dev_size if config.split == "documents" else 0.0),
        fraction=config.fraction,
        seed=config.seed,
        divisible=tokenizer.divisible and config.chat_template is None,
        judged=is_filtered or config.near_duplicates is not None or control.by_text,
        languages=control.by_language,
    )


def _run(
    config: PrepareConfig,
    items: Iterator[Item],
    examine: Callable[[], Examiner],
    *,
    place: Place,
    collector: Collector,
    journal: Journal,
    size: int,
) -> None:
    output = _output(config)
    batches = batched(items, _BATCH_CHARACTERS, length=_weight)
    results = parallel_map(examine, batches, processes=config.processes)
    with closing(results), _bar(config, size) as bar:
        for examined in chain.from_iterable(results):
            if collector.is_full:
                break
            with writing(output):
                collector.take(examined)
                place = examined.item.next
                if journal.is_due:
                    journal.note(place, collector.state())
            bar.update(examined.item.stored - bar.n)
    with writing(output):
        # A kill while the datasets are completed must find a state that fits them.
        journal.note(place, collector.state())


def _weight(item: Item) -> int:
    """What counts for the length of a batch: an item without text takes memory too."""
    return len(item.text) + _ITEM_CHARACTERS


def _bar(config: PrepareConfig, size: int) -> "tqdm[Any]":
    return tqdm(
        total=size,
        desc="preparing",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=config.quiet or not sys.stderr.isatty(),
    )


def _output(config: PrepareConfig) -> Path:
    if not config.sources:
        raise ConfigError(
            "there is no source; name files and folders, or - for standard input, in front of all "
            "flags, as --keywords and its like take every word behind them"
        )
    if config.output is None:
        raise ConfigError("there is no output; name the dataset's folder with --output")
    output = Path(config.output)
    if output.name in ("", ".."):
        raise ConfigError(f"output is '{config.output}'; give the dataset's folder a name")
    return output


def _named_tokenizer(config: PrepareConfig) -> Tokenizer:
    if config.tokenizer is None:
        raise ConfigError(
            "there is no tokenizer; train one with gptlab-tokenize --train, and name it with "
            "--tokenizer"
        )
    return load_tokenizer(config.tokenizer)


def _open(config: PrepareConfig, unfinished: Path) -> Corpus:
    if config.sources.count(STANDARD_INPUT) > 1:
        raise ConfigError("standard input is named twice; name - once")
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
        conversations=config.chat_template is not None,
    )


def _job(
    config: PrepareConfig, corpus: Corpus, tokenizer: Tokenizer, template: ChatTemplate | None
) -> dict[str, Any]:
    """All that decides the result, each under the name by which a user knows it."""
    settings = config.model_dump(mode="json", exclude=_FREE)
    listing = hashlib.sha256()
    for line in corpus.listing():
        listing.update(f"{line}\n".encode("utf-8", "surrogateescape"))
    return {
        **settings,
        "tokenizer": tokenizer.fingerprint(),
        "chat_template": None if template is None else template.fingerprint(),
        "the sources": listing.hexdigest(),
        "the format": VERSION,
    }


def _nothing_kept(part: str, collector: Collector, corpus: Corpus) -> str:
    faults = collector.counts.left_out
    if faults.total() == collector.counts.documents == 1 and (detail := collector.first_detail()):
        return detail
    purpose = {TRAIN: "training", DEV: "evaluation, for which dev_size holds a part out"}[part]
    reasons = [f"{count:,} {reason}" for reason, count in faults.most_common()]
    first = f" ({detail})" if (detail := collector.first_detail()) else ""
    return (
        f"no document of {corpus.root} is kept for {purpose}: left out are "
        f"{', '.join(reasons[:_NAMED_REASONS]) or 'none'}{first}; "
        "change the filters, or give other sources"
    )
