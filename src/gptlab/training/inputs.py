"""What a run reads: its tokenizer, its training tokens and its evaluation tokens."""

import hashlib
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gptlab.config import TrainConfig
from gptlab.config.training import AUTO, TOY_EVAL, TOY_TOKENIZER, TOY_TRAIN
from gptlab.corpus import Corpus, open_corpus
from gptlab.data import TokenDataset, prepare_cached, toy
from gptlab.data.shards import is_dataset
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer import BPETokenizer, Tokenizer, load_tokenizer, train_bpe

TOY_VOCAB_SIZE = 384
_CACHE = ".cache"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Inputs:
    """A tokenizer and two datasets made with it."""

    tokenizer: Tokenizer
    train: TokenDataset
    evaluation: TokenDataset
    floor: float | None
    """The evaluation text's true -log p in nats per character, where its grammar is known."""


def load_inputs(config: TrainConfig, *, saved: Tokenizer | None, say: Say) -> Inputs:
    """Open, or make, everything that `config` reads.

    Args:
        config: The run.
        saved: The tokenizer of the checkpoint from which the run goes on.
        say: Told, a line each, what was made that the user did not name.

    Raises:
        DataError, TokenizerError, ConfigError: Something is missing or does not fit.
    """
    write_shipped_data(config, say)
    cache = Path(config.runs_dir) / _CACHE
    train, evaluation = _open_data(config, say)
    tokenizer = saved or _open_tokenizer(config, train, cache, say)
    datasets = [
        TokenDataset(part, tokenizer=tokenizer.fingerprint())
        if isinstance(part, Path)
        else prepare_cached(
            part,
            tokenizer,
            cache=cache,
            dropout=dropout,
            seed=config.seed,
            progress=not config.quiet,
        )
        for part, dropout in ((train, config.bpe_dropout), (evaluation, 0.0))
    ]
    if len(datasets[1]) < 2:
        raise DataError("the evaluation text is a single token; give a longer --eval_data")
    return Inputs(tokenizer, datasets[0], datasets[1], _floor(evaluation, datasets[1]))


def write_shipped_data(config: TrainConfig, say: Say) -> None:
    """Write the shipped stories and their tokenizer where the defaults look, if not there yet."""
    named = {config.train_data, config.eval_data, config.tokenizer}
    if not all(Path(path).exists() for path in named & {TOY_TRAIN, TOY_EVAL}):
        train, evaluation = toy.write_toy_corpus(Path(TOY_TRAIN).parent)
        say(f"wrote the shipped stories: {train}, {evaluation}")
    if config.tokenizer == TOY_TOKENIZER and not Path(TOY_TOKENIZER).exists():
        if not Path(TOY_TRAIN).exists():
            toy.write_toy_corpus(Path(TOY_TRAIN).parent)
        _save_whole(train_bpe([TOY_TRAIN], vocab_size=TOY_VOCAB_SIZE), Path(TOY_TOKENIZER))
        say(f"wrote the stories' tokenizer: {TOY_TOKENIZER}")


def _open_data(config: TrainConfig, say: Say) -> tuple[Corpus | Path, Corpus | Path]:
    train = _open(config.train_data, say)
    if isinstance(train, Path) and config.bpe_dropout:
        raise ConfigError(
            f"{train} is prepared already, so that bpe_dropout {config.bpe_dropout} comes too "
            "late; give its text, or leave bpe_dropout out"
        )
    if config.eval_data != AUTO:
        return train, _open(config.eval_data, say)
    if isinstance(train, Path):
        raise ConfigError(f"{train} is prepared already and can't be split; write --eval_data")
    kept, held_out = train.split(config.dev_size)
    if len(train.files) > 1:
        what = f"{len(held_out.files)} of {len(train.files)} files"
    elif train.is_one_text:
        what = f"the last {config.dev_size:.0%}"
    else:
        what = f"about {config.dev_size:.0%} of the documents"
    say(f"evaluation text: {what} of {train.root}, held out (--eval_data names another)")
    return kept, held_out


def _open(path: str, say: Say) -> Corpus | Path:
    if is_dataset(path):
        return Path(path)
    corpus = open_corpus(path)
    if corpus.skipped:
        say(
            f"left out: {corpus.skipped} file(s) under {path} that are binary, damaged or not UTF-8"
        )
    return corpus


def _open_tokenizer(config: TrainConfig, train: Corpus | Path, cache: Path, say: Say) -> Tokenizer:
    if config.tokenizer == AUTO:
        if isinstance(train, Path):
            raise ConfigError(f"{train} is prepared already; name its tokenizer with --tokenizer")
        return _own_tokenizer(train, config, cache, say)
    kind = None if config.tokenizer_type == "default" else config.tokenizer_type
    tokenizer = load_tokenizer(config.tokenizer, kind=kind)
    if "vocab_size" in config.model_fields_set and config.vocab_size != tokenizer.vocab_size:
        raise ConfigError(
            f"tokenizer {config.tokenizer} has {tokenizer.vocab_size} tokens, but the vocabulary "
            f"is {config.vocab_size}; write --tgt_vocab_size {tokenizer.vocab_size}"
        )
    return tokenizer


def _own_tokenizer(train: Corpus, config: TrainConfig, cache: Path, say: Say) -> Tokenizer:
    key = f"{train.fingerprint()} {config.vocab_size}"
    folder = cache / f"tokenizer-{hashlib.sha256(key.encode()).hexdigest()[:20]}"
    if folder.exists():
        return BPETokenizer.load(folder)
    tokenizer = train_bpe(
        texts=train.streams(),
        vocab_size=config.vocab_size,
        progress=sys.stderr.isatty() and not config.quiet,
    )
    _save_whole(tokenizer, folder)
    say(f"trained a tokenizer of {tokenizer.vocab_size} tokens (--tokenizer names another)")
    return tokenizer


def _save_whole(tokenizer: Tokenizer, folder: Path) -> None:
    """Save into a new `folder` that never holds half a tokenizer."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tokenizer.save(partial)
        # Another process may have made the same meanwhile.
        with suppress(OSError):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _floor(evaluation: Corpus | Path, dataset: TokenDataset) -> float | None:
    """Nats per character of the shipped kind of stories, else None."""
    if isinstance(evaluation, Path) or not evaluation.is_one_text:
        return None
    beginning = next(next(evaluation.streams()))
    if toy.log_likelihood(beginning.partition(toy.SEPARATOR)[0]) is None:
        return None
    likelihood = toy.log_likelihood(next(evaluation.documents()))
    return None if likelihood is None else -likelihood / int(dataset.manifest["characters"])
