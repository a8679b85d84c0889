"""What a Transformer's run reads: pairs of sources and targets, and a tokenizer for each side."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from gptlab.config import TrainConfig
from gptlab.config.pairs import TOY_PAIRS_EVAL, TOY_PAIRS_TRAIN
from gptlab.config.training import AUTO
from gptlab.corpus.pairs import Pair, PairFields, read_pairs
from gptlab.data.labelled_rows import split_rows
from gptlab.data.pairs import PairDataset
from gptlab.data.toy.pairs import write_toy_pairs
from gptlab.errors import ConfigError
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.tokenizer.pair import PairTokenizer, source_of
from gptlab.training.inputs import Inputs, PairInputs
from gptlab.training.run_tokenizer import open_tokenizer, own_tokenizer
from gptlab.training.sources import Say


def load_pair_inputs(config: TrainConfig, *, saved: Tokenizer | None, say: Say) -> Inputs:
    """Open everything that a Transformer's run reads.

    Args:
        config: The run.
        saved: The tokenizer of the model that the run begins with.
        say: Told, a line each, what was made that the user did not name.

    Raises:
        DataError, TokenizerError, ConfigError: Something is missing, damaged, or does not fit.
    """
    _write_shipped_pairs(config, say)
    train, held_out = _read(config, say)
    _note_repeats(train, held_out, say)
    tokenizer = saved or _open_tokenizers(config, train, say)
    datasets = [
        PairDataset(part, source_of(tokenizer), tokenizer, length=config.seq_len)
        for part in (train, held_out)
    ]
    num_long = sum(dataset.num_long for dataset in datasets)
    if num_long:
        say(
            f"note: {num_long:,} pair(s) have more than {config.seq_len} tokens on a side and are "
            "left out (--seq_len reads more)"
        )
    return Inputs(
        tokenizer=tokenizer,
        train=(),
        evaluation=(),
        seq_len=config.seq_len,
        floor=None,
        pairs=PairInputs(datasets[0], datasets[1]),
    )


def _write_shipped_pairs(config: TrainConfig, say: Say) -> None:
    """Write the shipped pairs where the defaults look, if they are not there yet."""
    named = {*config.train_data, config.eval_data} & {TOY_PAIRS_TRAIN, TOY_PAIRS_EVAL}
    if not all(Path(path).exists() for path in named):
        train, evaluation = write_toy_pairs(Path(TOY_PAIRS_TRAIN).parent)
        say(f"wrote the shipped pairs: {train}, {evaluation}")


def _note_repeats(train: Sequence[Pair], held_out: Sequence[Pair], say: Say) -> None:
    """Say how many of the held-out pairs are no news to the model."""
    known = {(pair.source, pair.target) for pair in train}
    count = sum((pair.source, pair.target) in known for pair in held_out)
    if count:
        say(
            f"note: {count:,} of the {len(held_out):,} evaluation pairs are among those to train "
            "on, too; the evaluation is the better for it"
        )


def read_named(files: Sequence[str], targets: Sequence[str], config: TrainConfig) -> list[Pair]:
    """The pairs in `files`, of which `targets` may have the targets, read as `config` says."""
    fields = PairFields(config.src_field, config.tgt_field)
    return read_pairs(files, fields=fields, targets=targets, errors=config.errors)


def held_out_pairs(config: TrainConfig) -> list[Pair]:
    """The pairs that a run is evaluated on.

    Raises:
        DataError: A file is missing, damaged, or has no pairs.
    """
    if config.eval_data != AUTO:
        return _read_held_out(config)
    return split_rows(read_named(config.train_data, config.target_data, config), config.dev_size)[1]


def _read(config: TrainConfig, say: Say) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and those held out."""
    pairs = read_named(config.train_data, config.target_data, config)
    if config.eval_data != AUTO:
        return pairs, _read_held_out(config)
    train, held_out = split_rows(pairs, config.dev_size)
    say(
        f"evaluation pairs: {len(held_out):,} of {len(pairs):,}, held out (--eval_data names "
        "others)"
    )
    return train, held_out


def _read_held_out(config: TrainConfig) -> list[Pair]:
    targets = () if config.eval_target_data is None else (config.eval_target_data,)
    return read_named((config.eval_data,), targets, config)


def _open_tokenizers(config: TrainConfig, pairs: Sequence[Pair], say: Say) -> Tokenizer:
    """One tokenizer for both sides, unless the settings say that sources have their own."""
    is_pair = config.src_tokenizer is not None or config.src_vocab_size is not None
    if not is_pair:
        texts = (text for pair in pairs for text in (pair.source, pair.target))
        return _open_one(config, texts, pairs, side="both", say=say)
    target = _open_one(config, (pair.target for pair in pairs), pairs, side="target", say=say)
    if config.src_tokenizer is not None:
        source = _named_source(config, config.src_tokenizer)
    else:
        own = config.replace(tokenizer=AUTO, vocab_size=config.src_vocab_size)
        source = _open_one(own, (pair.source for pair in pairs), pairs, side="source", say=say)
    if config.share_embeddings and source.fingerprint() != target.fingerprint():
        raise ConfigError(
            "share_embeddings is for one tokenizer, but sources and targets have different ones, "
            "whose ids mean different things; leave it out"
        )
    return PairTokenizer(target, source)


def _named_source(config: TrainConfig, name: str) -> Tokenizer:
    tokenizer = load_tokenizer(name)
    if config.src_vocab_size not in (None, tokenizer.vocab_size):
        raise ConfigError(
            f"tokenizer {name} has {tokenizer.vocab_size} tokens, but src_vocab_size is "
            f"{config.src_vocab_size}; leave --src_vocab_size out"
        )
    return tokenizer


def _open_one(
    config: TrainConfig, texts: Iterable[str], pairs: Sequence[Pair], *, side: str, say: Say
) -> Tokenizer:
    if config.tokenizer != AUTO:
        return open_tokenizer(config, [], say=say)
    digest = hashlib.sha256(side.encode())
    for pair in pairs:
        digest.update(f"{pair.source!r} {pair.target!r}\n".encode())
    flag = "src_tokenizer" if side == "source" else "tokenizer"
    return own_tokenizer(texts, config, content=digest.hexdigest(), say=say, flag=flag)
