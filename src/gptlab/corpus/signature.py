"""What documents are compared by: a digest of the text, and a MinHash of its shingles."""

import hashlib
import operator
import re
import zlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gptlab.errors import DataError
from gptlab.numbers import mix

Signature = npt.NDArray[np.uint32]

NUM_PERMUTATIONS = 128
SHINGLE_WORDS = 5
HASH_BYTES = 16

_WORD = re.compile(r"\w+")
_ASCII_WORD = re.compile(rb"\w+")

# Shingles that datasketch gets at once: for more, its table outgrows the processor's cache.
_BATCH_SHINGLES = 512

# Odd numbers with bits at random: each place in a shingle has its own.
_PLACES = np.array(
    [
        0x9E3779B97F4A7C15,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0xD6E8FEB86659FD93,
        0xA0761D6478BD642F,
    ],
    np.uint64,
)


def content_hash(text: str) -> bytes:
    """BLAKE2b of a text in UTF-8, 16 bytes; half a surrogate pair counts as a character."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=HASH_BYTES).digest()


def signature(text: str) -> Signature:
    """MinHash of a text's shingles, each 5 consecutive words, by datasketch.

    Words are runs of letters, digits and underscores of all scripts, in their own case, as for The
    Stack (https://huggingface.co/blog/dedup). A text of fewer than 5 words is a single shingle of
    all of them, and a text without words one of its own. The share of equal numbers in two
    signatures estimates the Jaccard index of the sets of shingles (Broder,
    https://doi.org/10.1109/SEQUEN.1997.666900), with a standard deviation of at most 0.045.

    Returns:
        (128,) uint32.

    Raises:
        DataError: The package datasketch is missing.
    """
    sketch = _empty_sketch().copy()
    shingles = _shingles(text)
    for start in range(0, len(shingles), _BATCH_SHINGLES):
        sketch.update_batch(shingles[start : start + _BATCH_SHINGLES].tolist())
    signed: Signature = sketch.hashvalues
    return signed


def _shingles(text: str) -> npt.NDArray[np.uint32]:
    """A hash of each shingle, in order."""
    if text.isascii():
        words = _ASCII_WORD.findall(text.encode())
    else:
        joined = "\n".join(_WORD.findall(text))
        words = joined.encode("utf-8", "surrogatepass").split(b"\n") if joined else []
    words = words or [content_hash(text)]
    hashes = mix(np.fromiter(map(zlib.crc32, words), np.uint64, len(words)))
    length = min(SHINGLE_WORDS, len(words))
    count = len(words) - length + 1
    sums = np.zeros(count, np.uint64)
    for place in range(length):
        sums += hashes[place : place + count] * _PLACES[place]
    return (mix(sums) >> np.uint64(32)).astype(np.uint32)


@cache
def _empty_sketch() -> Any:
    """The MinHash of no shingles, which are numbers already."""
    return datasketch().MinHash(
        num_perm=NUM_PERMUTATIONS, hashfunc=operator.index, scheme="affine32"
    )


def datasketch() -> Any:
    """The package of that name.

    Raises:
        DataError: It is missing.
    """
    try:
        import datasketch
    except ImportError:
        raise DataError(
            "near_duplicates needs the package datasketch; run pip install 'gptlab[dedup]'"
        ) from None
    return datasketch
