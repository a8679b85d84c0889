"""Datasets to the files that nanoGPT trains on, and back.

nanoGPT reads `train.bin` and `val.bin`, each the ids of all documents end to end as uint16, as
https://github.com/karpathy/nanoGPT/blob/master/data/openwebtext/prepare.py writes them: each
document is followed by the end-of-sequence token, and there is no header.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from gptlab.data.manifest import DEV
from gptlab.data.shard_writer import DatasetWriter
from gptlab.data.shards import TOKENIZER, TokenDataset
from gptlab.data.staging import check_output, publish, staged, writing
from gptlab.data.text_size import TextSize
from gptlab.errors import DataError
from gptlab.tokenizer import Tokenizer

TRAIN_FILE = "train.bin"
DEV_FILE = "val.bin"
_DTYPE = np.dtype("<u2")
_MAX_VOCABULARY = 1 << 16
_BLOCK = 1 << 20

Uint16Array = npt.NDArray[np.uint16]


def export_nanogpt(dataset: TokenDataset, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write `train.bin` and, where `dataset` has a held-out part, `val.bin`.

    Args:
        dataset: Tokens of any windows; nanoGPT cuts its own.
        folder: Where to; it is made if it is missing.
        overwrite: Replace such files; a `val.bin` goes if nothing is held out.

    Raises:
        DataError: The files are there already or can't be written, or nanoGPT can't read such data.
    """
    folder = Path(folder)
    _check_fits(dataset)
    parts = {folder / TRAIN_FILE: dataset}
    if dataset.dev is not None:
        parts[folder / DEV_FILE] = TokenDataset(
            dataset.dev, tokenizer=dataset.manifest["tokenizer"]
        )
    for path in (folder / TRAIN_FILE, folder / DEV_FILE):
        if path.exists() and not overwrite:
            raise DataError(f"{path} exists; choose another folder, or overwrite it")
    partials = {path.with_name(f".{path.name}.partial"): path for path in parts}
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for partial, path in partials.items():
                with partial.open("wb") as stream:
                    _write(parts[path], stream)
            (folder / DEV_FILE).unlink(missing_ok=True)
            for partial, path in partials.items():
                partial.replace(path)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def import_nanogpt(
    source: str | Path, output: str | Path, *, tokenizer: Tokenizer, overwrite: bool = False
) -> TokenDataset:
    """Make a dataset of nanoGPT's files.

    A document ends where the end-of-sequence token of `tokenizer` stands, and the last one at the
    end of the file. The size of the text is counted by decoding.

    Args:
        source: A folder with `train.bin` and perhaps `val.bin`, or a single file.
        output: The folder of the dataset, which appears whole or not at all; `val.bin` becomes the
            part that is held out.
        tokenizer: What the files were made with; it is saved with the dataset.
        overwrite: Replace a dataset.

    Raises:
        DataError: A file is missing, damaged or not of this tokenizer, or something is at `output`.
    """
    source, output = Path(source), Path(output)
    train, dev = (source / TRAIN_FILE, source / DEV_FILE) if source.is_dir() else (source, None)
    check_output(output, overwrite=overwrite)
    with writing(output), staged(output) as partial:
        if dev is not None and dev.exists():
            _read_part(dev, partial / DEV, tokenizer, name=output)
        tokenizer.save(partial / TOKENIZER)
        _read_part(train, partial, tokenizer, name=output)
        publish(partial, output)
    return TokenDataset(output, tokenizer=tokenizer.fingerprint())


def _check_fits(dataset: TokenDataset) -> None:
    vocab_size = dataset.manifest["vocab_size"]
    if vocab_size > _MAX_VOCABULARY:
        raise DataError(
            f"{dataset.folder} has a vocabulary of {vocab_size:,}, but nanoGPT reads at most "
            f"{_MAX_VOCABULARY:,}; prepare the data with a smaller tokenizer"
        )
    if dataset.held_out is not None:
        raise DataError(
            f"{dataset.folder} holds out windows at random, which nanoGPT's files can't tell; "
            "prepare the data again with --split documents"
        )


def _write(dataset: TokenDataset, stream: BinaryIO) -> None:
    for start in range(0, len(dataset), _BLOCK):
        tokens = dataset.read(start, min(_BLOCK, len(dataset) - start))
        stream.write(tokens.astype(_DTYPE).tobytes())


def _read_part(path: Path, folder: Path, tokenizer: Tokenizer, *, name: Path) -> None:
    writer = DatasetWriter(folder, vocab_size=tokenizer.vocab_size, name=name)
    size = TextSize(tokenizer)
    eos_id = -1 if tokenizer.eos_id is None else tokenizer.eos_id
    for tokens in _blocks(path, tokenizer.vocab_size):
        begin = 0
        for end in (np.flatnonzero(tokens == eos_id) + 1).tolist():
            writer.write(tokens[begin:end])
            writer.end_document()
            size.add(tokens[begin : end - 1])
            size.end_document()
            begin = end
        writer.write(tokens[begin:])
        size.add(tokens[begin:])
    size.end_document()
    writer.finish(
        characters=size.characters,
        bytes=size.bytes,
        tokenizer=tokenizer.fingerprint(),
        source={"name": path.name},
    )


def _blocks(path: Path, vocab_size: int) -> Iterator[Uint16Array]:
    """The ids in `path`, in arrays of bounded size, all within the vocabulary."""
    try:
        size, stream = path.stat().st_size, path.open("rb")
    except OSError as error:
        raise DataError(
            f"{path} can't be read: {error.strerror}; give nanoGPT's folder or file"
        ) from None
    if not size or size % _DTYPE.itemsize:
        raise DataError(f"{path} has {size:,} bytes, which are no uint16 ids; give nanoGPT's file")
    with stream:
        for position in range(0, size // _DTYPE.itemsize, _BLOCK):
            tokens = np.fromfile(stream, _DTYPE, _BLOCK)
            if int(tokens.max()) >= vocab_size:
                place = int(np.argmax(tokens >= vocab_size))
                raise DataError(
                    f"{path} has id {tokens[place]} at position {position + place:,}, but the "
                    f"vocabulary has {vocab_size:,}; give the tokenizer that made it"
                )
            yield tokens
