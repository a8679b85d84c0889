"""What a Transformer's run reads: pairs of sources and targets, and a tokenizer for each side."""

import hashlib
from collections.abc import Iterable, Sequence

from gptlab.config import TrainConfig
from gptlab.config.training import AUTO
from gptlab.corpus.pairs import Pair, PairFields, read_pairs
from gptlab.data.labelled_rows import split_rows
from gptlab.data.pairs import PairDataset
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
    train, held_out = _read(config, say)
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


def read_named(files: Sequence[str], targets: Sequence[str], config: TrainConfig) -> list[Pair]:
    """The pairs in `files`, of which `targets` may have the targets, read as `config` says."""
    fields = PairFields(config.src_field, config.tgt_field)
    return read_pairs(files, fields=fields, targets=targets, errors=config.errors)


def _read(config: TrainConfig, say: Say) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on, and those held out."""
    pairs = read_named(config.train_data, config.target_data, config)
    if config.eval_data != AUTO:
        targets = () if config.eval_target_data is None else (config.eval_target_data,)
        return pairs, read_named((config.eval_data,), targets, config)
    train, held_out = split_rows(pairs, config.dev_size)
    say(
        f"evaluation pairs: {len(held_out):,} of {len(pairs):,}, held out (--eval_data names "
        "others)"
    )
    return train, held_out


def _open_tokenizers(config: TrainConfig, pairs: Sequence[Pair], say: Say) -> Tokenizer:
    """One tokenizer for both sides, unless the settings say that sources have their own."""
    is_pair = config.src_tokenizer is not None or config.src_vocab_size is not None
    if not is_pair:
        texts = (text for pair in pairs for text in (pair.source, pair.target))
        return _open_one(config, texts, pairs, side="both", say=say)
    target = _open_one(config, (pair.target for pair in pairs), pairs, side="target", say=say)
    if config.src_tokenizer is not None:
        return PairTokenizer(target, load_tokenizer(config.src_tokenizer))
    own = config.replace(tokenizer=AUTO, vocab_size=config.src_vocab_size)
    source = _open_one(own, (pair.source for pair in pairs), pairs, side="source", say=say)
    return PairTokenizer(target, source)


def _open_one(
    config: TrainConfig, texts: Iterable[str], pairs: Sequence[Pair], *, side: str, say: Say
) -> Tokenizer:
    if config.tokenizer != AUTO:
        return open_tokenizer(config, [], say=say)
    digest = hashlib.sha256(side.encode())
    for pair in pairs:
        digest.update(f"{pair.source!r} {pair.target!r}\n".encode())
    return own_tokenizer(texts, config, content=digest.hexdigest(), say=say)
