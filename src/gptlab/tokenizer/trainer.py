"""Learn the merges of a byte-level BPE tokenizer from text (Sennrich et al. 2016).

The corpus becomes a table of unique chunks and how often each occurs. The chunks are laid end to
end as one linked list of ids, beside an index from each adjacent pair of ids to its places, so
that a merge only visits the places it changes.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from gptlab.errors import DataError, TokenizerError
from gptlab.tokenizer.base import SPECIAL_TOKENS
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.patterns import compiled, split

Pair = tuple[int, int]

_BYTES = 256
_BOUNDARY = -1


def train_bpe(
    files: Sequence[str | Path] | None = None,
    *,
    vocab_size: int,
    texts: Iterable[str] | None = None,
    pattern: str = "gpt4",
    progress: bool = False,
) -> BPETokenizer:
    """Train a byte-level BPE tokenizer on files or on texts in memory.

    Each merge joins the pair of ids that occurs most often; among equals the lowest pair wins, so
    that the same corpus gives the same tokenizer everywhere. Training ends early, with a smaller
    vocabulary, once every chunk is a single token. A special token's text is plain text here.

    Args:
        files: UTF-8 text files, read exactly as they are, line ends included.
        vocab_size: Number of ids: 256 bytes, the merges, and 4 special tokens.
        texts: Strings to train on instead of `files`.
        pattern: How text is cut into chunks: "gpt4" or "gpt2".
        progress: Show a progress bar on standard error.

    Raises:
        TokenizerError: `vocab_size` or `pattern` can't be had, or not exactly one of `files` and
            `texts` is given.
        DataError: A file is missing, unreadable, or no UTF-8 text, or the corpus is empty.
    """
    num_merges = vocab_size - _BYTES - len(SPECIAL_TOKENS)
    if num_merges < 0:
        raise TokenizerError(
            f"vocab_size={vocab_size} is too small: 256 bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens already make {_BYTES + len(SPECIAL_TOKENS)}; ask for at least that many"
        )
    compiled(pattern)
    chunks = _count_chunks(_corpus(files, texts), pattern)
    if not chunks:
        raise DataError("the corpus is empty: give files or texts with at least one character")
    merges = _learn_merges(chunks, num_merges, progress=progress)
    return BPETokenizer(_as_bytes(merges), pattern=pattern)


def _corpus(files: Sequence[str | Path] | None, texts: Iterable[str] | None) -> Iterable[str]:
    """The texts to train on; a lone path or string counts as a list of one."""
    if files is not None and texts is None:
        return map(_read_text, [files] if isinstance(files, str | Path) else files)
    if texts is not None and files is None:
        return [texts] if isinstance(texts, str) else texts
    raise TokenizerError("train_bpe needs either files or texts=: give exactly one of them")


def _read_text(file: str | Path) -> str:
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"can't read {file}: {error.strerror}; check the path") from error
    if b"\0" in content:
        raise DataError(
            f"{file} holds NUL bytes, so it is binary or UTF-16: "
            f"leave it out, or convert it to UTF-8"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is no valid UTF-8 at byte {error.start}: convert it, "
            f"for example with iconv -t UTF-8, or leave it out"
        ) from error


def _count_chunks(texts: Iterable[str], pattern: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(split(text, pattern))
    return counts


def _learn_merges(chunks: Mapping[str, int], num_merges: int, *, progress: bool) -> list[Pair]:
    """Pairs of ids in the order they are merged; merge number i makes the id 256 + i.

    Counts in the heap may be out of date, but only ever too high: a merge creates pairs with the
    new id alone and can only lower the counts of all others. So an entry is brought up to date
    when it comes to the top, and the first one that already is up to date is the most frequent.
    """
    pairs = _PairIndex(chunks)
    heap = [(-count, pair) for pair, count in pairs.counts.items()]
    heapify(heap)
    merges: list[Pair] = []
    with tqdm(total=num_merges, desc="merges", disable=not progress) as bar:
        while heap and len(merges) < num_merges:
            negative_count, pair = heappop(heap)
            count = pairs.counts[pair]
            if count == 0:
                pairs.forget(pair)
            elif count < -negative_count:
                heappush(heap, (-count, pair))
            else:
                for new_pair in pairs.merge(pair, _BYTES + len(merges)):
                    heappush(heap, (-pairs.counts[new_pair], new_pair))
                merges.append(pair)
                bar.update()
    return merges


class _PairIndex:
    """All chunks as one linked list of ids, with the count and the places of each pair.

    A place is the position of a pair's first id. Places are never removed one by one: a merge
    checks whether the pair still stands there. Counts are weighted by how often a chunk occurs.
    """

    def __init__(self, chunks: Mapping[str, int]) -> None:
        self.counts: dict[Pair, int] = {}
        self._places: dict[Pair, array[int]] = {}
        self._ids = array("q", [_BOUNDARY])
        self._weights = [0]
        for chunk, weight in chunks.items():
            self._append(chunk.encode("utf-8", "surrogatepass"), weight)
        length = len(self._ids)
        self._next = array("q", range(1, length + 1))
        self._previous = array("q", range(-1, length - 1))

    def _append(self, chunk: bytes, weight: int) -> None:
        start = len(self._ids)
        for position, pair in enumerate(pairwise(chunk), start):
            self._add(pair, position, weight)
        self._ids.extend(chunk)
        self._ids.append(_BOUNDARY)
        self._weights += [weight] * (len(chunk) + 1)

    def _add(self, pair: Pair, position: int, weight: int) -> None:
        if pair in self.counts:
            self.counts[pair] += weight
            self._places[pair].append(position)
        else:
            self.counts[pair] = weight
            self._places[pair] = array("q", [position])

    def forget(self, pair: Pair) -> None:
        """Free what is kept about a pair that no longer occurs."""
        del self.counts[pair], self._places[pair]

    def merge(self, pair: Pair, new_id: int) -> set[Pair]:
        """Put `new_id` wherever `pair` stands, and return the pairs that this created.

        Places are in ascending order, so that a run such as "aaa" is merged from the left.
        """
        first, second = pair
        ids, counts = self._ids, self.counts
        created: set[Pair] = set()
        for position in self._places[pair]:
            partner = self._next[position]
            if ids[position] != first or ids[partner] != second:
                continue
            weight = self._weights[position]
            before, after = self._previous[position], self._next[partner]
            left, right = ids[before], ids[after]
            if left != _BOUNDARY:
                counts[left, first] -= weight
                self._add((left, new_id), before, weight)
                created.add((left, new_id))
            if right != _BOUNDARY:
                counts[second, right] -= weight
                self._add((new_id, right), position, weight)
                created.add((new_id, right))
            ids[position], ids[partner] = new_id, _BOUNDARY
            self._next[position], self._previous[after] = after, position
        self.forget(pair)
        return created


def _as_bytes(merges: Iterable[Pair]) -> list[tuple[bytes, bytes]]:
    tokens = [bytes([byte]) for byte in range(_BYTES)]
    parts = []
    for left, right in merges:
        parts.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return parts
