"""One preparation of some texts by one library, in a process of its own: see prepare.py.

    python benchmarks/prepare_task.py '{"contender": "gptlab", "source": ..., "cores": 2, ...}'

Prints how many seconds it took, and a checksum of the tokens. Each library is imported by the
contender that needs it, before the clock starts. Without a contender in its task it trains the
tokenizer.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from corpora import GPT4_PATTERN
from measure import use_cores

TOKEN = np.dtype("<u2")
_BLOCK_TOKENS = 1 << 20
# The fastest of those that were tried with `datasets`; nanoGPT writes in 1,024 batches.
_MAP_BATCH = 100
_WRITE_BATCHES = 64
_TIKTOKEN_BATCH = 500


@dataclass(frozen=True)
class Inputs:
    """What a contender may use."""

    source: Path
    """A folder of files, or a file of rows."""
    tokenizer: Path
    eos_id: int
    """What follows each document."""
    folder: Path
    """Empty, for whatever is written."""
    cores: int

    def files(self) -> list[Path]:
        """The files of the folder, in the order in which all contenders take them."""
        return sorted(self.source.rglob("*.py"))

    def texts(self) -> list[str]:
        """What is in these files."""
        return [read_text(file) for file in self.files()]


@dataclass(frozen=True)
class Job:
    """What is timed, and then what tokens came of it, piece by piece, which is not."""

    run: Callable[[], Any]
    tokens: Callable[[Any], Iterable[npt.NDArray[Any]]]


def gptlab(inputs: Inputs) -> Job:
    import gptlab

    prepare = gptlab.prepare
    config = gptlab.PrepareConfig(
        sources=(str(inputs.source),),
        output=str(inputs.folder / "dataset"),
        tokenizer=str(inputs.tokenizer),
        processes=inputs.cores,
        quiet=True,
    )
    return Job(lambda: prepare(config), lambda result: shards_tokens(result.path))


def shards_tokens(dataset: Path) -> Iterator[npt.NDArray[Any]]:
    for shard in sorted(dataset.glob("tokens-*.bin")):
        yield from file_tokens(shard, header_bytes=64)


def gptlab_encoding(inputs: Inputs) -> Job:
    import gptlab
    from gptlab.tokenizer import encode_documents

    tokenizer = gptlab.load_tokenizer(inputs.tokenizer)
    texts = inputs.texts()
    return Job(
        lambda: list(encode_documents(tokenizer, texts, processes=inputs.cores)),
        lambda pieces: (
            np.append(piece.ids, inputs.eos_id) if piece.ends_document else piece.ids
            for piece in pieces
        ),
    )


def tiktoken_encoding(inputs: Inputs) -> Job:
    import tiktoken

    import gptlab

    merges = gptlab.load_tokenizer(inputs.tokenizer).merges
    tokens = [*(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)]
    encoding = tiktoken.Encoding(
        "benchmark",
        pat_str=GPT4_PATTERN,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={},
    )
    texts = inputs.texts()

    def encoded() -> Iterator[list[int]]:
        for start in range(0, len(texts), _TIKTOKEN_BATCH):
            batch = texts[start : start + _TIKTOKEN_BATCH]
            yield from encoding.encode_ordinary_batch(batch, num_threads=inputs.cores)

    def run() -> None:
        # Nothing is kept: at 100 MB, lists of all ids would take a gigabyte, and half of the time.
        for _ in encoded():
            pass

    return Job(run, lambda _: (np.array([*ids, inputs.eos_id], TOKEN) for ids in encoded()))


def huggingface(inputs: Inputs) -> Job:
    """The road of nanoGPT's prepare.py, for openwebtext, with what was found to make it faster.

    https://github.com/karpathy/nanoGPT/blob/master/data/openwebtext/prepare.py
    """
    caches = {"HF_HOME": "home", "HF_DATASETS_CACHE": "datasets"}
    os.environ |= {name: str(inputs.folder / folder) for name, folder in caches.items()}
    # Threads within each of several processes would only get in each other's way.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features(
        ids=datasets.Sequence(datasets.Value("uint16")), len=datasets.Value("int64")
    )
    encode = partial(encode_rows, tokenizer=str(inputs.tokenizer), eos_id=inputs.eos_id)
    path = inputs.folder / "train.bin"

    def run() -> Path:
        # load_dataset("text", sample_by="document") is slower, and changes the ends of lines.
        texts = datasets.Dataset.from_generator(
            file_rows, gen_kwargs={"files": inputs.files()}, num_proc=inputs.cores
        )
        rows = texts.map(
            encode,
            batched=True,
            batch_size=_MAP_BATCH,
            num_proc=inputs.cores,
            remove_columns=texts.column_names,
            features=features,
        )
        write_rows(rows, path)
        return path

    return Job(run, file_tokens)


def file_rows(files: Sequence[Path]) -> Iterator[dict[str, str]]:
    for file in files:
        yield {"text": read_text(file)}


def encode_rows(rows: dict[str, list[str]], *, tokenizer: str, eos_id: int) -> dict[str, list[Any]]:
    encodings = loaded(tokenizer).encode_batch_fast(rows["text"], add_special_tokens=False)
    ids = [np.array([*encoding.ids, eos_id], TOKEN) for encoding in encodings]
    return {"ids": ids, "len": [len(document) for document in ids]}


@lru_cache
def loaded(tokenizer: str) -> Any:
    from tokenizers import Tokenizer

    result = Tokenizer.from_file(f"{tokenizer}/tokenizer.json")
    result.encode_special_tokens = True  # "<EOS>" in a document is plain text
    return result


def write_rows(rows: Any, path: Path) -> None:
    tokens = np.memmap(path, dtype=TOKEN, mode="w+", shape=(sum(rows["len"]),))
    batches = min(_WRITE_BATCHES, len(rows))
    start = 0
    for index in range(batches):
        batch = rows.shard(num_shards=batches, index=index, contiguous=True).with_format("numpy")
        ids = np.concatenate(batch["ids"])
        tokens[start : start + len(ids)] = ids
        start += len(ids)
    tokens.flush()


CONTENDERS: dict[str, Callable[[Inputs], Job]] = {
    "gptlab": gptlab,
    "datasets": huggingface,
    "gptlab, encoding alone": gptlab_encoding,
    "tiktoken, encoding alone": tiktoken_encoding,
}


def prepare_once(
    contender: str, source: str, tokenizer: str, eos_id: int, folder: str, cores: int
) -> dict[str, Any]:
    use_cores(cores)
    inputs = Inputs(Path(source), Path(tokenizer), eos_id, Path(folder), cores)
    job = CONTENDERS[contender](inputs)
    start = time.perf_counter()
    outcome = job.run()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **digest(job.tokens(outcome), eos_id)}


def digest(pieces: Iterable[npt.NDArray[Any]], eos_id: int) -> dict[str, Any]:
    """Number of documents and tokens, and a checksum of the tokens between the documents' ends."""
    checksum = hashlib.sha256()
    num_tokens = num_documents = 0
    for piece in pieces:
        tokens = piece[piece != eos_id].astype(TOKEN)
        checksum.update(tokens.tobytes())
        num_tokens += len(tokens)
        num_documents += len(piece) - len(tokens)
    return {"documents": num_documents, "tokens": num_tokens, "sha256": checksum.hexdigest()}


def file_tokens(path: Path, *, header_bytes: int = 0) -> Iterator[npt.NDArray[Any]]:
    """The tokens of a file, read in blocks, because mapped pages would count as memory."""
    with path.open("rb") as file:
        file.seek(header_bytes)
        while (block := np.fromfile(file, TOKEN, _BLOCK_TOKENS)).size:
            yield block


def read_text(path: Path) -> str:
    return path.read_bytes().decode()


def train_tokenizer(
    files: list[str], vocab_size: int, tokenizer: str, cores: int
) -> dict[str, Any]:
    import gptlab

    use_cores(cores)
    trained = gptlab.train_bpe(files, vocab_size=vocab_size, pattern="gpt4", processes=cores)
    trained.save(tokenizer)
    return {"vocab_size": trained.vocab_size, "eos_id": trained.eos_id}


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps((prepare_once if "contender" in task else train_tokenizer)(**task)))
