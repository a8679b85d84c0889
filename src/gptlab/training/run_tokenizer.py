"""The tokenizer of a run: one that is named, that of its prepared data, or one of its own."""

import hashlib
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from gptlab.config import TrainConfig
from gptlab.config.training import AUTO
from gptlab.corpus import Corpus
from gptlab.data import TokenDataset
from gptlab.data.conversations import said
from gptlab.data.staging import staged, writing
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer import SPECIAL_TOKENS, BPETokenizer, Tokenizer, load_tokenizer, train_bpe
from gptlab.tokenizer.chat import ChatTemplate
from gptlab.tokenizer.chunks.steps import normalise
from gptlab.tokenizer.mask import MASK
from gptlab.training.sources import Say, Source

CACHE = ".cache"
"""Beside the runs: what one of them made and the next may read."""


def open_tokenizer(
    config: TrainConfig,
    sources: list[Source],
    *,
    say: Say,
    template: ChatTemplate | None = None,
) -> Tokenizer:
    """The tokenizer that `config` names, that of prepared sources, or one trained on their texts.

    Raises:
        TokenizerError, ConfigError, DataError: It is missing, damaged, or does not fit.
    """
    prepared = [source.train for source in sources if isinstance(source.train, TokenDataset)]
    texts = [source.train for source in sources if isinstance(source.train, Corpus)]
    if config.tokenizer != AUTO:
        kind = None if config.tokenizer_type == "default" else config.tokenizer_type
        name, tokenizer = config.tokenizer, load_tokenizer(config.tokenizer, kind=kind)
    elif prepared:
        name = str(_saved_tokenizer(prepared))
        tokenizer = load_tokenizer(name)
    else:
        documents = chain.from_iterable(
            text.streams() if template is None else ([document] for document in said(text))
            for text in texts
        )
        content = " ".join(text.fingerprint() for text in texts)
        return own_tokenizer(documents, config, content=content, say=say, template=template)
    if "vocab_size" in config.model_fields_set and config.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"tokenizer {name} has {tokenizer.vocab_size} tokens, but the vocabulary "
            f"is {config.vocab_size}; write --tgt_vocab_size {tokenizer.vocab_size}"
        )
    return tokenizer


def _saved_tokenizer(prepared: list[TokenDataset]) -> Path:
    """The folder of the tokenizer that made all of the datasets."""
    first = prepared[0]
    for other in prepared:
        if other.manifest["tokenizer"] != first.manifest["tokenizer"]:
            raise DataError(
                f"{first.folder} and {other.folder} were prepared with different tokenizers; "
                "prepare them with the same one"
            )
    folders = [dataset.tokenizer for dataset in prepared if dataset.tokenizer is not None]
    if not folders:
        raise ConfigError(
            f"{first.folder} is prepared already, without its tokenizer; name that with --tokenizer"
        )
    return folders[0]


def own_tokenizer(
    texts: Iterable[str | Iterable[str]],
    config: TrainConfig,
    *,
    content: str,
    say: Say,
    template: ChatTemplate | None = None,
    flag: str = "tokenizer",
) -> Tokenizer:
    """A tokenizer trained on the texts of a run, or the one that an earlier run trained on them.

    Args:
        texts: Each a string, or the pieces of one; not touched where there is one already.
        config: The run.
        content: What tells these texts from others.
        say: Told of a new one.
        template: How conversations are written; its special tokens are among the tokenizer's.
        flag: What would name another one.
    """
    key = f"{content} {config.vocab_size}" + " lower case" * config.lower_case
    special_tokens: tuple[str, ...] = SPECIAL_TOKENS
    if template is not None:
        key += f" {template.fingerprint()}"
        special_tokens += template.special_tokens
    if config.learns_masks:
        key += " mask"
        special_tokens += (MASK,)
    name = f"tokenizer-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    folder = Path(config.runs_dir) / CACHE / name
    if folder.exists():
        return BPETokenizer.load(folder)
    # Merges are learned of what will be merged.
    case = partial(normalise, normalizers=("Lowercase",) if config.lower_case else ())
    documents = ([text] if isinstance(text, str) else text for text in texts)
    tokenizer = train_bpe(
        texts=(map(case, document) for document in documents),
        vocab_size=config.vocab_size,
        special_tokens=special_tokens,
        progress=shows_progress(config),
    )
    save_whole(tokenizer, folder)
    say(f"trained a tokenizer of {tokenizer.vocab_size} tokens (--{flag} names another)")
    return tokenizer


def shows_progress(config: TrainConfig) -> bool:
    """Whether somebody watches who wants to see bars."""
    return sys.stderr.isatty() and not config.quiet


def save_whole(tokenizer: Tokenizer, folder: Path) -> None:
    """Save into a new `folder` that never holds half a tokenizer."""
    with writing(folder), staged(folder) as partial:
        tokenizer.save(partial)
        # Another process may have made the same meanwhile.
        with suppress(OSError):
            partial.rename(folder)
