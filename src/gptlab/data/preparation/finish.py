"""The end of a preparation: manifests, the tokenizer, and what there is to report."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptlab.config import FilterConfig, PrepareConfig, WindowConfig
from gptlab.corpus import Corpus
from gptlab.data.manifest import MANIFEST
from gptlab.data.packing import Packing, packing_of
from gptlab.data.preparation.collect import Collector, Counts
from gptlab.data.preparation.reading import DEV, TRAIN
from gptlab.data.shards import TOKENIZER, TokenDataset
from gptlab.data.windows import make_windows
from gptlab.errors import DataError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatTemplate

_CHOICES = (
    "field",
    "errors",
    "include",
    "gitignore",
    "fraction",
    "max_documents",
    "drop_duplicates",
    "near_duplicates",
    "dev_size",
    "split",
    "seed",
    "control_tokens",
)


@dataclass(frozen=True)
class Report:
    """What was read, what was kept, and why the rest was not."""

    read_documents: int
    read_bytes: int
    """Of text in UTF-8, as far as it could be read."""
    documents: dict[str, int]
    """Kept, by part: train and, if there is one, dev."""
    tokens: dict[str, int]
    bytes: dict[str, int]
    """Of the kept text in UTF-8."""
    windows: dict[str, int | None]
    """For training or evaluation; None where they depend on the model that is trained."""
    control_tokens: dict[str, int]
    """Kept documents that each stands in front of, the most frequent first."""
    left_out: dict[str, int]
    """Documents by reason, the most frequent first."""
    conversations: dict[str, Packing] = field(default_factory=dict)
    """How they are packed, by part, where that is what the documents are."""


def finish(
    collector: Collector,
    *,
    config: PrepareConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
    template: ChatTemplate | None = None,
) -> Report:
    """Complete the datasets in the collector's folder."""
    counts, folder = collector.counts, collector.folder
    # A kill may have left the beginning of a file there.
    shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    tokenizer.save(folder / TOKENIZER)
    for part, writer in collector.writers.items():
        chat = {} if template is None else _chat_facts(template, counts.answer_tokens[part])
        writer.finish(**_facts(part, counts, config, corpus, tokenizer), **chat)
    datasets = {TRAIN: TokenDataset(folder)}
    if config.split == "random-windows":
        _hold_out_windows(folder)
    if config.dev_size:
        datasets[DEV] = TokenDataset(folder / DEV)
    return Report(
        read_documents=counts.documents,
        read_bytes=counts.bytes,
        documents={part: dataset.num_documents for part, dataset in datasets.items()},
        tokens={part: len(dataset) for part, dataset in datasets.items()},
        bytes={part: int(dataset.manifest["bytes"]) for part, dataset in datasets.items()},
        windows={part: _count_windows(dataset) for part, dataset in datasets.items()},
        control_tokens=_by_frequency(counts.control_tokens),
        left_out=_by_frequency(counts.left_out),
        conversations={} if template is None else {p: packing_of(d) for p, d in datasets.items()},
    )


def _chat_facts(template: ChatTemplate, answer_tokens: int) -> dict[str, Any]:
    return {"chat_template": template.model_dump(mode="json"), "answer_tokens": answer_tokens}


def _facts(
    part: str,
    counts: Counts,
    config: PrepareConfig,
    corpus: Corpus,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """What a manifest says beside the files."""
    facts: dict[str, Any] = {
        "part": part,
        "bytes": counts.kept_bytes[part],
        "characters": counts.kept_characters[part],
        "tokenizer": tokenizer.fingerprint(),
        "pad_id": tokenizer.pad_id,
        "windows": config.part(WindowConfig).model_dump(),
        "source": {"name": corpus.name, "files": len(corpus.files), "sha256": counts.digest},
    }
    if config.split == "random-windows":
        facts["held_out"] = {"share": config.dev_size, "seed": config.seed, "part": part}
    if part == TRAIN:
        choices = config.part(FilterConfig).model_dump()
        choices |= {name: getattr(config, name) for name in _CHOICES}
        facts["choices"] = choices
        facts["report"] = {
            "read_documents": counts.documents,
            "read_bytes": counts.bytes,
            "kept_documents": dict(counts.kept_documents),
            "control_tokens": _by_frequency(counts.control_tokens),
            "left_out": _by_frequency(counts.left_out),
        }
    return facts


def _hold_out_windows(dataset: Path) -> None:
    """A dataset beside that of training which has the same tokens and other windows."""
    manifest = json.loads((dataset / MANIFEST).read_text(encoding="utf-8"))
    for file in [*manifest["shards"], manifest["document_ends"]]:
        file["file"] = f"../{file['file']}"
    for name in ("choices", "report"):
        del manifest[name]
    manifest |= {"part": DEV, "held_out": manifest["held_out"] | {"part": DEV}}
    folder = dataset / DEV
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _by_frequency(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _count_windows(dataset: TokenDataset) -> int | None:
    length = dataset.windows.length
    if length is None:
        return None
    try:
        return make_windows(dataset, seq_len=length).count
    except DataError:
        return 0
