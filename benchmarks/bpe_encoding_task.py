"""One encoding of some documents by one library, in a process of its own: see bpe_encoding.py.

    python benchmarks/bpe_encoding_task.py '{"contender": "rustbpe encode", "documents": ..., ...}'

Prints how many seconds the encoding took, and a checksum of the ids. Each library is imported by
the contender that needs it, and NumPy for all, before the clock starts. Without a contender in its
task it trains the tokenizer.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from corpora import GPT4_PATTERN
from measure import use_cores

SPECIAL_TOKENS = 4  # gptlab's vocab_size counts them


@dataclass(frozen=True)
class Inputs:
    """What a contender may use: the tokenizer, what it was trained on, and what to encode."""

    tokenizer: Path
    vocab_size: int
    source: list[Path]
    files: list[Path]
    texts: list[str]
    cores: int


# Encodes all documents; this is what is timed.
Encode = Callable[[], Sequence[Iterable[int]]]


def tiktoken(inputs: Inputs, *, method: str) -> Encode:
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
    if method == "encode_ordinary_batch":
        return lambda: encoding.encode_ordinary_batch(inputs.texts, num_threads=inputs.cores)
    if method == "encode_to_numpy":
        return partial(in_threads, encoding.encode_to_numpy, inputs)
    return lambda: [encoding.encode_ordinary(text) for text in inputs.texts]


def in_threads(encode: Callable[[str], Iterable[int]], inputs: Inputs) -> list[Iterable[int]]:
    if inputs.cores == 1:
        return [encode(text) for text in inputs.texts]
    with ThreadPoolExecutor(inputs.cores) as pool:
        return list(pool.map(encode, inputs.texts))


def huggingface(inputs: Inputs, *, method: str) -> Encode:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(inputs.tokenizer / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # "<EOS>" in a document is plain text
    encode = getattr(tokenizer, method)
    return lambda: [encoding.ids for encoding in encode(inputs.texts)]


def rustbpe(inputs: Inputs, *, method: str) -> Encode:
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(
        map(read_text, inputs.source),
        inputs.vocab_size - SPECIAL_TOKENS,
        pattern=GPT4_PATTERN,
    )
    if method == "batch_encode":
        return lambda: tokenizer.batch_encode(inputs.texts)
    return lambda: [tokenizer.encode(text) for text in inputs.texts]


def gptlab(inputs: Inputs, *, method: str) -> Encode:
    import gptlab

    tokenizer = gptlab.load_tokenizer(inputs.tokenizer)
    if method == "encode_files":
        return lambda: list(tokenizer.encode_files(inputs.files, processes=inputs.cores))
    if method == "encode_batch":
        return lambda: tokenizer.encode_batch(inputs.texts)
    encode = getattr(tokenizer, method)
    return lambda: [encode(text) for text in inputs.texts]


@dataclass(frozen=True)
class Contender:
    """A library's method, and whether it runs on one core, on all, or on either."""

    library: Callable[..., Encode]
    method: str
    on_one_core: bool = True
    on_all_cores: bool = True


CONTENDERS = {
    "gptlab encode": Contender(gptlab, "encode", on_all_cores=False),
    "gptlab encode_batch": Contender(gptlab, "encode_batch", on_all_cores=False),
    "gptlab encode_to_array": Contender(gptlab, "encode_to_array", on_all_cores=False),
    "gptlab encode_files": Contender(gptlab, "encode_files"),
    "tiktoken encode_ordinary": Contender(tiktoken, "encode_ordinary", on_all_cores=False),
    "tiktoken encode_ordinary_batch": Contender(
        tiktoken, "encode_ordinary_batch", on_one_core=False
    ),
    "tiktoken encode_to_numpy": Contender(tiktoken, "encode_to_numpy"),
    "tokenizers encode_batch": Contender(huggingface, "encode_batch"),
    "tokenizers encode_batch_fast": Contender(huggingface, "encode_batch_fast"),
    "rustbpe encode": Contender(rustbpe, "encode", on_all_cores=False),
    "rustbpe batch_encode": Contender(rustbpe, "batch_encode", on_one_core=False),
}


def train_tokenizer(source: str, vocab_size: int, tokenizer: str, cores: int) -> dict[str, Any]:
    import gptlab

    use_cores(cores)
    trained = gptlab.train_bpe(
        listed(Path(source)), vocab_size=vocab_size, pattern="gpt4", processes=cores
    )
    trained.save(tokenizer)
    return {"vocab_size": trained.vocab_size}


def encode_once(
    contender: str, source: str, documents: str, tokenizer: str, vocab_size: int, cores: int
) -> dict[str, Any]:
    use_cores(cores)
    files = listed(Path(documents))
    texts = [read_text(file) for file in files]
    inputs = Inputs(Path(tokenizer), vocab_size, listed(Path(source)), files, texts, cores)
    chosen = CONTENDERS[contender]
    encode = chosen.library(inputs, method=chosen.method)
    start = time.perf_counter()
    ids = encode()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, **digest(ids)}


def digest(documents: Iterable[Iterable[int]]) -> dict[str, Any]:
    """Number of documents and ids, and a checksum over both, alike for lists and arrays."""
    checksum = hashlib.sha256()
    num_documents = num_ids = 0
    for document in documents:
        ids = np.asarray(document, dtype="<u4")
        checksum.update(f"{len(ids)}:".encode() + ids.tobytes())
        num_documents += 1
        num_ids += len(ids)
    return {"documents": num_documents, "ids": num_ids, "sha256": checksum.hexdigest()}


def listed(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def read_text(path: Path) -> str:
    return path.read_bytes().decode()


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    print(json.dumps((encode_once if "contender" in task else train_tokenizer)(**task)))
