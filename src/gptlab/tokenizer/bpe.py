"""Byte-level BPE: any string to ids and back without loss (Sennrich et al. 2016)."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from gptlab.corpus import TextErrors, open_corpus
from gptlab.tokenizer.base import SPECIAL_TOKENS, SpecialNames, TokenArray
from gptlab.tokenizer.chunks.patterns import compiled
from gptlab.tokenizer.encoding.documents import encode_documents
from gptlab.tokenizer.encoding.text import TextEncoder
from gptlab.tokenizer.files import write_files
from gptlab.tokenizer.formats.definition import Definition, Merges, define_by_merges
from gptlab.tokenizer.formats.huggingface import folder_files
from gptlab.tokenizer.formats.roles import Role
from gptlab.tokenizer.formats.sources import definition_at
from gptlab.tokenizer.formats.tiktoken_file import RANKS_FILE, read_tiktoken_file, tiktoken_ranks
from gptlab.tokenizer.ids import bytes_to_text, checked_ids, unknown_id
from gptlab.tokenizer.special import allowed_names


class BPETokenizer:
    """A byte-level BPE tokenizer: a split pattern and a list of merges.

    Ids 0 to 255 are the bytes, then come the merges in order, then the special tokens.
    `decode(encode(text)) == text` for every string, lone surrogates included. Nothing is unknown
    to a byte-level vocabulary, so `encode` never yields <UNK> by itself.

    `load` and `load_tiktoken` read those of others as well: GPT-2, Llama 3, Qwen and their like.
    Those have ids of their own, may normalise text, so that it comes back normalised, and leave
    out bytes that are not in their vocabulary.

    Not to be changed once made; two tokenizers are equal when their fingerprints are.

    Args:
        merges: The two parts of each merge, in the order in which merges are made.
        pattern: How text is cut into chunks before merging: "gpt4" or "gpt2".
        special_tokens: What the last ids stand for.

    Raises:
        TokenizerError: The pattern is unknown, a merge joins parts that do not exist yet, two
            merges make the same bytes, or a special token is empty, a token already, or given
            twice.
    """

    def __init__(
        self,
        merges: Merges,
        *,
        pattern: str = "gpt4",
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
    ) -> None:
        compiled(pattern)
        self._set_up(define_by_merges(merges, pattern=pattern, special_tokens=special_tokens))

    def _set_up(self, definition: Definition) -> None:
        self._definition = definition
        self._special_tokens = definition.special_tokens()
        self._token_bytes = definition.token_bytes()
        self._vocab_size = max(self._token_bytes, default=-1) + 1
        self._encoder = TextEncoder(definition, self._vocab_size)

    @classmethod
    def from_definition(cls, definition: Definition) -> Self:
        """The tokenizer that a definition describes."""
        tokenizer = cls.__new__(cls)
        tokenizer._set_up(definition)
        return tokenizer

    @property
    def definition(self) -> Definition:
        """What it is, apart from the code that runs it; for those who write it in other formats."""
        return self._definition

    @property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The two parts of each merge, in order; in gptlab's own, number i has the id 256 + i."""
        return self._definition.merges_in_bytes()

    @property
    def pattern(self) -> str:
        """Name of the split pattern; of others' tokenizers the expressions, one a line."""
        return self._definition.pattern

    @property
    def vocab_size(self) -> int:
        """One more than the highest id; in gptlab's own there are no gaps below it."""
        return self._vocab_size

    @property
    def gaps(self) -> tuple[int, ...]:
        """Ids below `vocab_size` that stand for nothing; there are none in gptlab's own."""
        if len(self._token_bytes) == self._vocab_size:
            return ()
        return tuple(i for i in range(self._vocab_size) if i not in self._token_bytes)

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token, lowest first."""
        return dict(self._special_tokens)

    @property
    def added_tokens(self) -> dict[str, int]:
        """The id of each token that is no merge's: special ones, and those that count in a text."""
        return {token.content: token.id for token in self._definition.added_tokens}

    @property
    def pad_id(self) -> int | None:
        """Id of <PAD>, or of what serves as such."""
        return self._role_ids["pad"]

    @property
    def unk_id(self) -> int | None:
        """Id of <UNK>, or of what serves as such."""
        return self._role_ids["unk"]

    @property
    def bos_id(self) -> int | None:
        """Id of <BOS>, or of what serves as such."""
        return self._role_ids["bos"]

    @property
    def eos_id(self) -> int | None:
        """Id of <EOS>, or of what serves as such."""
        return self._role_ids["eos"]

    def encode(
        self,
        text: str,
        *,
        allowed_special: SpecialNames = (),
        disallowed_special: SpecialNames = (),
        dropout: float = 0.0,
        seed: int | None = None,
    ) -> list[int]:
        """Ids of `text` alone: what a `tokenizer.json` would put around it is not added.

        Args:
            text: Any string.
            allowed_special: Special tokens, such as "<EOS>", that become their ids where `text`
                has their names, or "all" of them; the others are plain text. Tokens that others
                added without calling them special are always looked for.
            disallowed_special: Strings that must not be in `text`, or "all" for the special tokens
                that are not allowed.
            dropout: Probability with which each candidate merge is left out of each step, so that
                the same text is cut differently each time (BPE-dropout, Provilkov et al. 2020,
                arXiv:1910.13267): 0 gives the usual ids, 1 those of the bytes.
            seed: Makes dropout repeatable.

        Raises:
            TokenizerError: `text` has a disallowed special token, an allowed one does not exist,
                or `dropout` is no probability.
        """
        allowed = allowed_names(
            text, self._special_tokens, allowed=allowed_special, disallowed=disallowed_special
        )
        return self._encoder.encode(text, allowed=allowed, dropout=dropout, seed=seed)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
        return [ids.tolist() for ids in self.encode_to_arrays(texts)]

    @property
    def divisible(self) -> bool:
        """Whether a text's ids are those of its `patterns.blocks`, one after another.

        So it is unless the tokenizer of others has a pattern of its own, normalises, or looks for
        added tokens.
        """
        return self._encoder.divisible

    def encode_to_array(self, text: str) -> TokenArray:
        """`encode` into an array, (n,) uint16, or uint32 if there are more than 65,536 ids."""
        return self._encoder.encode_to_array(text)

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        """`encode_to_array` for each text."""
        return self._encoder.encode_to_arrays(texts)

    def encode_files(
        self,
        files: str | Path | Sequence[str | Path],
        *,
        field: str = "text",
        errors: TextErrors = "strict",
        processes: int | None = None,
        progress: bool = False,
    ) -> Iterator[TokenArray]:
        """The ids of each document in turn, read and encoded while they are asked for.

        Args:
            files: What `gptlab.corpus.open_corpus` takes: text files, folders, JSON lines, Parquet.
            field: Which field of JSON lines, or column of Parquet, holds the text.
            errors: "strict", or "replace" for U+FFFD where a file is no UTF-8.
            processes: Processes that share the work; one a core if None. Changes nothing else.
            progress: Show a progress bar on standard error.

        Raises:
            DataError: A file is missing, unreadable, or no UTF-8 text.
            WorkerError: One of the processes was killed.
        """
        streams = open_corpus(files, field=field, errors=errors).streams()
        document = []
        for piece in encode_documents(self, streams, processes=processes, progress=progress):
            document.append(piece.ids)
            if piece.ends_document:
                yield np.concatenate(document)
                document = []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; a special token gives its name, and what is no UTF-8 becomes U+FFFD.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        tokens = self._token_bytes
        try:
            return bytes_to_text(b"".join([tokens[i] for i in checked_ids(ids, self._vocab_size)]))
        except KeyError as error:
            raise unknown_id(error.args[0], self._vocab_size) from error

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id stands for.

        Raises:
            TokenizerError: The id is outside the vocabulary.
        """
        (checked,) = checked_ids([token_id], self._vocab_size)
        if checked not in self._token_bytes:
            raise unknown_id(checked, self._vocab_size)
        return self._token_bytes[checked]

    def with_special_tokens(self, names: Sequence[str], *, in_text: bool = False) -> Self:
        """The same tokenizer with more special tokens behind all other ids.

        Args:
            names: Their texts.
            in_text: Whether they are looked for in every text that is encoded; otherwise they are
                plain text unless allowed.

        Raises:
            TokenizerError: A name is empty, a token already, or given twice.
        """
        return self.from_definition(self._definition.with_special_tokens(names, in_text=in_text))

    def with_lower_case(self) -> Self:
        """The same tokenizer for text in lower case: it makes it so before anything is encoded.

        Special tokens keep their names and are looked for as they are written. What is saved says
        so itself, to Hugging Face's libraries too. A tokenizer that does so already is returned
        alike.
        """
        return self.from_definition(self._definition.with_lower_case())

    def save(self, folder: str | Path) -> None:
        """Write the files that gptlab, Hugging Face's libraries and, if it can be, tiktoken read.

        `tokenizer.json` says everything, and that of others is written as it was read; `load` reads
        it. `tokenizer.tiktoken` has the ranks for tiktoken, and `formats.tiktoken_file` says how to
        read it. The same tokenizer always gives the same bytes. Missing parent folders are made.

        Raises:
            TokenizerError: The folder can't be written.
        """
        ranks = tiktoken_ranks(self._definition, self._encoder.ranks)
        write_files(folder, {RANKS_FILE: ranks, **folder_files(self._definition)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The byte-level BPE in a folder or file, gptlab's own or that of others.

        Args:
            path: A `tokenizer.json`, a `.tiktoken` file, or a folder with one of them or with
                GPT-2's `vocab.json` and `merges.txt`. The names of padding and the like come from
                the files beside it, as `formats.companions` says, or else are the usual ones.

        Raises:
            TokenizerError: The file is missing, garbled, or has what gptlab does not support.
        """
        return cls.from_definition(definition_at(Path(path)))

    @classmethod
    def load_tiktoken(
        cls,
        file: str | Path,
        *,
        pattern: str | None = None,
        special_tokens: Sequence[str] | Mapping[str, int] | None = None,
    ) -> Self:
        """The tokenizer that tiktoken makes of a `.tiktoken` file, which has only the ranks.

        Args:
            file: Lines of a token in base64 and its rank.
            pattern: "gpt4", "gpt2", or a regular expression; if None, that of OpenAI's file of
                this name (such as cl100k_base), and "gpt4" for other names.
            special_tokens: Names with their ids, or names alone for ids behind all tokens; if
                None, those of OpenAI's file of this name, and <PAD>, <UNK>, <BOS> and <EOS> for
                other names.

        Raises:
            TokenizerError: The file is missing or garbled, its ranks come from no merges, or the
                pattern can't be read.
        """
        return cls.from_definition(
            read_tiktoken_file(Path(file), pattern=pattern, special_tokens=special_tokens)
        )

    def fingerprint(self) -> str:
        """SHA-256 hex digest over all that decides `encode`."""
        return self._fingerprint

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BPETokenizer):
            return NotImplemented
        return self._definition == other._definition

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def __repr__(self) -> str:
        return f"BPETokenizer(vocab_size={self.vocab_size}, pattern={self.pattern!r})"

    def __reduce__(self) -> tuple[Callable[[Definition], "BPETokenizer"], tuple[Definition]]:
        # A copy in another process starts from the definition, not from a cache of chunks.
        return type(self).from_definition, (self._definition,)

    @cached_property
    def _fingerprint(self) -> str:
        return self._definition.fingerprint()

    @cached_property
    def _role_ids(self) -> dict[Role, int | None]:
        return self._definition.role_ids()
