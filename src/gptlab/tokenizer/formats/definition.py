"""What a byte-level BPE is, apart from the files it comes from and the code that runs it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gptlab.errors import TokenizerError
from gptlab.tokenizer.chunks.steps import NamedSplit, Normalizer, Split, Step
from gptlab.tokenizer.formats.alphabet import spell, spelled_bytes
from gptlab.tokenizer.formats.roles import Role, role_tokens

Merges = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in the text before anything else happens to it.

    Args:
        content: Its text.
        id: Its id.
        special: Whether it is plain text unless allowed; otherwise it is always looked for.
        single_word: Whether it counts only where no letter or digit touches it.
        lstrip: Whether it takes the whitespace before it.
        rstrip: Whether it takes the whitespace after it.
        normalized: Whether it is looked for in the normalised text.
    """

    content: str
    id: int
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it stands for its text and nothing else, where text is not normalised."""
        return not (self.single_word or self.lstrip or self.rstrip)


@dataclass(frozen=True)
class Definition:
    """A byte-level BPE: what decides its ids, and what else its files say.

    Args:
        vocab: The id of each token, as Hugging Face's files spell it.
        merges: The two parts of each merge, spelled like the tokens; the first has priority. Two
            merges may make the same token.
        added_tokens: Tokens that are looked for in the text, in the order they were added in.
        steps: How text is cut into chunks.
        normalizers: What is done to text before that.
        ignore_merges: Whether a chunk that is a token is that token, whatever the merges say.
        roles: The name of the token for each role; None where there is none on purpose.
        frame: The `tokenizer.json` that it comes from, but for the parts above; None for the
            arrangement that gptlab writes.

    Raises:
        TokenizerError: Two tokens have one id, or a merge has parts or makes a token that the
            vocabulary does not have.
    """

    vocab: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    added_tokens: tuple[AddedToken, ...]
    steps: tuple[Step, ...]
    normalizers: tuple[Normalizer, ...] = ()
    ignore_merges: bool = False
    roles: Mapping[Role, str | None] = field(default_factory=dict, compare=False)
    frame: Mapping[str, Any] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        names: dict[int, str] = {}
        for name, token_id in self.ids().items():
            if not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
                raise TokenizerError(f"the id of {name!r} is {token_id!r}, which is no integer ≥ 0")
            if token_id in names:
                raise TokenizerError(
                    f"the id {token_id} stands for both {names[token_id]!r} and {name!r}: "
                    f"give each token an id of its own"
                )
            names[token_id] = name
        for number, (left, right) in enumerate(self.merges):
            for token in (left, right, left + right):
                if token not in self.vocab:
                    raise TokenizerError(
                        f"merge {number} joins {left!r} and {right!r}, but the vocabulary lacks "
                        f"{token!r}: add it, or remove the merge"
                    )

    def ids(self) -> dict[str, int]:
        """The id of every token, added ones included."""
        return {**self.vocab, **{token.content: token.id for token in self.added_tokens}}

    def special_tokens(self) -> dict[str, int]:
        """The id of each special token, lowest first."""
        special = [(token.id, token.content) for token in self.added_tokens if token.special]
        return {content: token_id for token_id, content in sorted(special)}

    def role_tokens(self) -> dict[Role, str | None]:
        """The name of the token that plays each role; None where the vocabulary has none."""
        return role_tokens(self.roles, self.ids())

    def role_ids(self) -> dict[Role, int | None]:
        """The id of the token that plays each role; None where the vocabulary has none."""
        ids = self.ids()
        names = role_tokens(self.roles, ids)
        return {role: None if name is None else ids[name] for role, name in names.items()}

    @property
    def pattern(self) -> str:
        """Name of the split pattern; of others' tokenizers the expressions, one a line."""
        return "\n".join(
            step.pattern if isinstance(step, NamedSplit) else step.expression
            for step in self.steps
            if isinstance(step, NamedSplit | Split)
        )

    @property
    def sole_pattern(self) -> str | None:
        """Name of the split pattern, if nothing else happens to text that has no special tokens."""
        is_sole = len(self.steps) == 1 and isinstance(self.steps[0], NamedSplit)
        only_special = all(token.special for token in self.added_tokens)
        return self.pattern if is_sole and only_special and not self.normalizers else None

    def mergeable(self) -> dict[bytes, int]:
        """The id of each token of the vocabulary that bytes can make."""
        spelled = ((spelled_bytes(token), token_id) for token, token_id in self.vocab.items())
        return {data: token_id for data, token_id in spelled if data is not None}

    def whole_chunks(self) -> dict[bytes, int]:
        """The id of each chunk that is a token whatever the merges say; never a special one."""
        if not self.ignore_merges:
            return {}
        special = set(self.special_tokens().values())
        return {data: i for data, i in self.mergeable().items() if i not in special}

    def merges_in_bytes(self) -> list[tuple[bytes, bytes]]:
        """The merges, in order."""
        tokens = {token: spelled_bytes(token) or b"" for merge in self.merges for token in merge}
        return [(tokens[left], tokens[right]) for left, right in self.merges]

    def token_bytes(self) -> dict[int, bytes]:
        """The bytes that each id stands for."""
        tokens: dict[int, bytes] = {}
        for token, token_id in self.vocab.items():
            data = spelled_bytes(token)
            tokens[token_id] = token.encode() if data is None else data
        return tokens | {token.id: token.content.encode() for token in self.added_tokens}

    def with_special_tokens(self, names: Sequence[str], *, in_text: bool = False) -> "Definition":
        """The same with more special tokens behind all others, looked for always if `in_text`.

        Raises:
            TokenizerError: A name is empty, no valid Unicode, there already, or given twice.
        """
        ids = self.ids()
        first = max(ids.values(), default=-1) + 1
        new = _special_tokens(names, taken=ids, first=first)
        added = [*self.added_tokens, *(replace(token, special=not in_text) for token in new)]
        # Hugging Face numbers added tokens by itself, unless the vocabulary says their ids.
        vocab = {**self.vocab, **{token.content: token.id for token in added}}
        return replace(self, vocab=vocab, added_tokens=tuple(added))

    def with_lower_case(self) -> "Definition":
        """The same, but for text that is made lower case after all other normalisation."""
        if self.normalizers[-1:] == ("Lowercase",):
            return self
        return replace(self, normalizers=(*self.normalizers, "Lowercase"))

    def fingerprint(self) -> str:
        """SHA-256 hex digest of all that decides the ids of a text."""
        content = {
            "vocab": sorted(self.vocab.items()),
            "merges": self.merges,
            "added_tokens": [asdict(token) for token in self.added_tokens],
            "steps": [_step_content(step) for step in self.steps],
            "normalizers": self.normalizers,
            "ignore_merges": self.ignore_merges,
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _step_content(step: Step) -> list[Any]:
    if isinstance(step, NamedSplit):
        return ["NamedSplit", step.expression]
    return [type(step).__name__, asdict(step)]


def define(
    tokens: Mapping[bytes, int],
    merges: Iterable[tuple[bytes, bytes]],
    *,
    steps: tuple[Step, ...],
    special_tokens: Sequence[str] | Mapping[str, int],
) -> Definition:
    """A definition from tokens and merges in bytes.

    Args:
        tokens: The id of each token.
        merges: The two parts of each merge, in order.
        steps: How text is cut into chunks.
        special_tokens: Names, which get the ids behind all tokens, or names with their ids.

    Raises:
        TokenizerError: A special token is empty, no valid Unicode, a token already, or given twice.
    """
    vocab = {spell(token): token_id for token, token_id in tokens.items()}
    first = max(vocab.values(), default=-1) + 1
    added = list(_special_tokens(special_tokens, taken=vocab, first=first))
    if isinstance(special_tokens, Mapping):
        added = [replace(token, id=special_tokens[token.content]) for token in added]
    return Definition(
        vocab=vocab | {token.content: token.id for token in added},
        merges=tuple((spell(left), spell(right)) for left, right in merges),
        added_tokens=tuple(added),
        steps=steps,
    )


def define_by_merges(merges: Merges, *, pattern: str, special_tokens: Sequence[str]) -> Definition:
    """The arrangement of gptlab: 256 bytes, then the merges in order, then the special tokens.

    Raises:
        TokenizerError: A merge joins parts that do not exist yet, two merges make the same bytes,
            or a special token is empty, no valid Unicode, a token already, or given twice.
    """
    tokens = {bytes([byte]): byte for byte in range(256)}
    for number, (left, right) in enumerate(merges):
        for part in (left, right):
            if part not in tokens:
                raise TokenizerError(
                    f"merge {number} joins {left!r} and {right!r}, but no byte or earlier merge "
                    f"makes {part!r}: put the merges in the order they were learned in"
                )
        if left + right in tokens:
            raise TokenizerError(
                f"merge {number} makes {left + right!r}, which is a token already: remove the merge"
            )
        tokens[left + right] = len(tokens)
    return define(tokens, merges, steps=(NamedSplit(pattern),), special_tokens=special_tokens)


def _special_tokens(
    names: Iterable[str], *, taken: Mapping[str, int], first: int
) -> Iterator[AddedToken]:
    if isinstance(names, str):
        raise TokenizerError(f"special tokens are a list of names: give [{names!r}]")
    seen = set(taken)
    for token_id, name in enumerate(names, first):
        if not name:
            raise TokenizerError("a special token can't be empty: give each a name")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise TokenizerError(
                f"the special token {name!r} holds half a surrogate pair: choose another"
            )
        if name in seen:
            raise TokenizerError(f"the special token {name!r} is a token already: choose another")
        seen.add(name)
        yield AddedToken(name, token_id)
