"""What a run with a head reads: texts with labels, and what follows from them about the head."""

import hashlib

from gptlab.config import HeadSettings, TrainConfig
from gptlab.config.heads import TargetKind
from gptlab.config.training import AUTO
from gptlab.data.labelled import LabelledDataset
from gptlab.data.labelled_rows import Fields, LabelledRow, labels_of, read_rows, split_rows
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.lower_case import lower_cased
from gptlab.training.inputs import Inputs, LabelledInputs
from gptlab.training.run_tokenizer import open_tokenizer, own_tokenizer
from gptlab.training.sources import Say


def load_labelled_inputs(
    config: TrainConfig, *, kind: TargetKind, saved: Tokenizer | None, say: Say
) -> Inputs:
    """Open everything that a run with a head reads.

    Args:
        config: The run.
        kind: What the head learns from.
        saved: The tokenizer of the model that the run begins with.
        say: Told, a line each, what was made that the user did not name.

    Raises:
        DataError, TokenizerError, ConfigError: Something is missing, damaged, or does not fit.
    """
    fields = Fields(config.field, config.label_field, config.pair_field)
    rows = read_rows(config.train_data, kind=kind, fields=fields, errors=config.errors)
    settings = _settings(config, kind, rows)
    if config.eval_data == AUTO:
        train, held_out = split_rows(rows, config.dev_size)
        say(
            f"evaluation rows: {len(held_out):,} of {len(rows):,}, held out (--eval_data names "
            "others)"
        )
    else:
        train = rows
        held_out = read_rows([config.eval_data], kind=kind, fields=fields, errors=config.errors)
    tokenizer = saved or _open_tokenizer(config, train, say)
    if config.lower_case:
        # One that does so already stays as it is.
        tokenizer = lower_cased(tokenizer)
    datasets = [
        LabelledDataset(
            part,
            tokenizer,
            kind=kind,
            labels=settings.labels,
            num_values=settings.num_values or 1,
            length=config.seq_len,
        )
        for part in (train, held_out)
    ]
    num_cut = sum(dataset.num_cut for dataset in datasets)
    if num_cut:
        say(
            f"note: {num_cut:,} text(s) have more than {config.seq_len} tokens, of which only the "
            "first are read (--seq_len reads more)"
        )
    return Inputs(
        tokenizer=tokenizer,
        train=(),
        evaluation=(),
        seq_len=config.seq_len,
        floor=None,
        labelled=LabelledInputs(datasets[0], datasets[1], settings),
    )


def _settings(config: TrainConfig, kind: TargetKind, rows: list[LabelledRow]) -> HeadSettings:
    """The head's, with the labels or the number of values that the rows have."""
    settings = config.part(HeadSettings)
    if kind in ("class", "word_classes"):
        return settings.replace(labels=settings.labels or labels_of(rows))
    return settings.replace(num_values=settings.num_values or len(rows[0].label))


def _open_tokenizer(config: TrainConfig, rows: list[LabelledRow], say: Say) -> Tokenizer:
    if config.tokenizer != AUTO:
        return open_tokenizer(config, [], say=say)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.texts!r}\n".encode())
    texts = (text if isinstance(text, str) else " ".join(text) for r in rows for text in r.texts)
    return own_tokenizer(texts, config, content=digest.hexdigest(), say=say)
