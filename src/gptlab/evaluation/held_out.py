"""A trained model and the text that it is held against."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptlab.corpus import open_corpus
from gptlab.data import TokenDataset, prepare_cached
from gptlab.data.shards import is_dataset
from gptlab.errors import ConfigError
from gptlab.evaluation.inspected import Inspected, open_any, settings_of
from gptlab.interop.loading import require_gpt
from gptlab.model import GPT, Encoder
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.special import silent_ids
from gptlab.training.inputs import load_inputs, measured
from gptlab.training.masked_inputs import readable, require_made_by, require_plain_texts

_CACHE = ".cache"


@dataclass(frozen=True)
class Subject(Inspected):
    """A trained GPT that is to be evaluated."""

    model: GPT
    """In evaluation mode, on the device of `arithmetic`."""


def open_subject(path: str | Path, *, device: str = "auto", precision: str = "auto") -> Subject:
    """The model of a checkpoint, of a run's newest one, or of another tool.

    Args:
        path: A run, or a checkpoint; "RUN/best" is a run's best; or what else `gptlab.load` takes.
        device: cpu, cuda, ...; 'auto' takes a GPU where there is one.
        precision: Arithmetic of matrix products; a model in 16 bits has its own.

    Raises:
        CheckpointError: There is none, or it is damaged.
        ConfigError: Its tokenizer has more ids than it knows.
        BackendError: The device or the precision is not to be had here.
    """
    return as_subject(open_any(path, device=device, precision=precision))


def as_subject(found: Inspected) -> Subject:
    """A model of any kind, which must be a GPT to be held against a text.

    Raises:
        CheckpointError: It is none.
    """
    model = require_gpt(found.model, found.folder)
    return Subject(found.folder, model, found.tokenizer, found.arithmetic, found.settings)


def held_out_text(
    found: Inspected, data: Sequence[str], *, runs_dir: str | Path, field: str = "text"
) -> tuple[TokenDataset, ...]:
    """What `data` names, as tokens, or the evaluation text of the model's run if that is nothing.

    Texts are encoded into the cache of `runs_dir`, as in training, and are one dataset together.

    Args:
        found: A GPT or an encoder, whose tokenizer encodes.
        data: Text files, folders of them, patterns, and prepared datasets.
        runs_dir: Where the cache is.
        field: The key or the column that holds the text, where a file has rows.

    Raises:
        DataError: Something is missing, empty or damaged, or was prepared by another tokenizer.
        ConfigError: Nothing is named, and the checkpoint lies in no run; or an encoder is to read
            conversations.
    """
    if not data:
        config = settings_of(found.folder, remedy="name a text, as with --data")
        return load_inputs(config, saved=found.tokenizer, say=lambda _line: None).evaluation
    tokenizer, is_encoder = found.tokenizer, isinstance(found.model, Encoder)
    prepared = [TokenDataset(path) for path in data if is_dataset(path)]
    made_by = frozenset({tokenizer.fingerprint()})
    if is_encoder:
        require_plain_texts(dataset.chat_template for dataset in prepared)
        made_by = readable(tokenizer, tokenizer, prepared)
    datasets = [require_made_by(dataset, tokenizer, made_by) for dataset in prepared]
    for dataset in datasets:
        dataset.verify()
    if texts := [path for path in data if not is_dataset(path)]:
        corpus = open_corpus(texts, field=field)
        cache = Path(runs_dir) / _CACHE
        datasets.insert(0, prepare_cached(corpus, tokenizer, cache=cache))
    # How much text is in hidden tokens says little of a model.
    return tuple(d if is_encoder else measured(d, tokenizer) for d in datasets)


def documents(datasets: Sequence[TokenDataset], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of each document, as the tokens have it; special tokens are none of it.

    Raises:
        ConfigError: A dataset shares its documents with one that is trained on.
    """
    silent = silent_ids(tokenizer) | {tokenizer.eos_id}
    for dataset in datasets:
        if dataset.held_out is not None:
            raise ConfigError(
                f"{dataset.folder} holds out windows, not documents, so that no line of it is "
                "unseen; give a text with --data"
            )
        start = 0
        for end in dataset.document_ends.tolist():
            ids = dataset.read(start, end - start).tolist()
            yield tokenizer.decode([id_ for id_ in ids if id_ not in silent])
            start = end
