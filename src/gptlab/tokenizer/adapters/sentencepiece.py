"""SentencePiece models behind the same face as our own tokenizer."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from gptlab.errors import TokenizerError
from gptlab.tokenizer.adapters.shared import refuse_dropout
from gptlab.tokenizer.base import SpecialNames, TokenArray, token_dtype
from gptlab.tokenizer.encoding.added_tokens import TokenFinder
from gptlab.tokenizer.files import read_file, read_json, to_json, write_files
from gptlab.tokenizer.formats.companions import CONFIG_FILE, listed_tokens, named_roles
from gptlab.tokenizer.formats.definition import AddedToken
from gptlab.tokenizer.formats.roles import Role
from gptlab.tokenizer.formats.sentencepiece_file import SPACE_MARK
from gptlab.tokenizer.formats.sentencepiece_from_json import METASPACES, Metaspace
from gptlab.tokenizer.ids import checked_ids, unknown_id, without_surrogates
from gptlab.tokenizer.special import allowed_names

SENTENCEPIECE_FILE = "tokenizer.model"
_METASPACE_KEY = "gptlab_metaspace"


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018) behind the `Tokenizer` protocol.

    `decode(encode(text)) == text` holds for models of `train_sentencepiece`, lone surrogates
    apart. Others promise less: most normalise text and merge runs of spaces, what their pieces do
    not cover becomes the unknown token, and U+2581, which is SentencePiece's mark for a space,
    comes back as one. A special id is None where the model has none.

    Tokens that were added to a model beside its file, as derivatives of Llama 2 have them, are
    looked for in the text as a byte-level BPE does it; what is between two of them is a text of
    its own to the model.

    Args:
        model: Path of a `.model` file, or its content.
        added_tokens: Tokens beyond the model's, or pieces of it that are looked for first.
        roles: The name of the token for each role, or None for none; roles that are not here are
            the model's own.
        metaspace: Which stretches of text get a space in front unless they begin with one: those
            that a text begins with ("first"), "always" or "never", in the way of Hugging Face's
            step of this name, for which U+2581 is a space. None leaves it to the model, which must
            add no space itself otherwise.

    Raises:
        TokenizerError: The file can't be read, is no SentencePiece model, or two added tokens have
            one id.
    """

    def __init__(
        self,
        model: bytes | str | Path,
        *,
        added_tokens: Iterable[AddedToken] = (),
        roles: Mapping[Role, str | None] | None = None,
        metaspace: Metaspace | None = None,
    ) -> None:
        self._model = model if isinstance(model, bytes) else read_file(Path(model))
        name = "these bytes" if isinstance(model, bytes) else str(model)
        self._processor = _processor(self._model, name)
        self._pieces = int(self._processor.get_piece_size())
        own = {
            self._processor.id_to_piece(i): AddedToken(self._processor.id_to_piece(i), i)
            for i in range(self._pieces)
            if self._processor.is_control(i) or self._processor.is_unknown(i)
        }
        self._added = _beyond(own, added_tokens)
        self._tokens = [*own.values(), *self._added]
        special = [(token.id, token.content) for token in self._tokens if token.special]
        self._special_ids = {content: token_id for token_id, content in sorted(special)}
        self._names = {token.id: token.content for token in self._added}
        self._roles = dict(roles or {})
        # Where it puts a space in front of a text, it takes one away from what it decodes.
        first = next(iter(self._processor.encode("a", out_type=str)), "")
        self._loses_space = first.startswith(SPACE_MARK)
        self._metaspace = metaspace
        self._mark_ids = _mark_ids(self._processor if metaspace is None else None)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id; the number of pieces, unless more tokens were added."""
        return max(self._pieces, *(i + 1 for i in self._names), 0)

    @property
    def gaps(self) -> tuple[int, ...]:
        """Ids below `vocab_size` that stand for nothing."""
        return tuple(i for i in range(self._pieces, self.vocab_size) if i not in self._names)

    @property
    def pad_id(self) -> int | None:
        """Id of the padding piece."""
        return self._role_id("pad", self._processor.pad_id())

    @property
    def unk_id(self) -> int | None:
        """Id of the piece for what the model does not cover."""
        return self._role_id("unk", self._processor.unk_id())

    @property
    def bos_id(self) -> int | None:
        """Id of the piece that begins a sequence."""
        return self._role_id("bos", self._processor.bos_id())

    @property
    def eos_id(self) -> int | None:
        """Id of the piece that ends a document."""
        return self._role_id("eos", self._processor.eos_id())

    def _role_id(self, role: Role, own: int) -> int | None:
        name = self._roles.get(role, "")
        if name in self._special_ids:
            return self._special_ids[name]
        return None if name is None or own < 0 else own

    @property
    def special_tokens(self) -> dict[str, int]:
        """The id of each special token: control pieces, the unknown one, and what was added."""
        return dict(self._special_ids)

    @property
    def divisible(self) -> bool:
        """False: a piece may span any two characters."""
        return False

    def encode(
        self,
        text: str,
        *,
        allowed_special: SpecialNames = (),
        disallowed_special: SpecialNames = (),
        dropout: float = 0.0,
        seed: int | None = None,  # noqa: ARG002 (the protocol has it, beside dropout)
    ) -> list[int]:
        """Ids of `text`.

        Args:
            text: Any string; a lone surrogate counts as U+FFFD.
            allowed_special: Names of control pieces, such as "</s>", that become their ids, or
                "all"; the others are plain text.
            disallowed_special: Strings that must not be in `text`, or "all" for the control pieces
                that are not allowed.
            dropout: 0; the library's own sampling has one seed for the whole process.
            seed: Of no effect.

        Raises:
            TokenizerError: `text` has a disallowed special token, an allowed one does not exist,
                or `dropout` is not 0.
        """
        refuse_dropout(dropout)
        allowed = allowed_names(
            text, self._special_ids, allowed=allowed_special, disallowed=disallowed_special
        )
        ids: list[int] = []
        for part in self._parts(text, allowed):
            if isinstance(part, int):
                ids.append(part)
            else:
                ids += self._plain_ids(part, is_first=not ids).tolist()
        return ids

    def _parts(self, text: str, allowed: frozenset[str]) -> Iterable[str | int]:
        """Stretches of plain text, and the ids of the tokens between them that count."""
        tokens = [t for t in self._tokens if not t.special or t.content in allowed]
        return TokenFinder(tokens, ()).parts(text) if tokens else [text]

    def encode_to_array(self, text: str) -> TokenArray:
        """Ids of `text`, in which no special tokens are looked for.

        They are uint16 up to a vocabulary of 65536, else uint32.
        """
        if all(token.special for token in self._added):
            return self._plain_ids(text).astype(token_dtype(self.vocab_size))
        return np.array(self.encode(text), token_dtype(self.vocab_size))

    def _plain_ids(self, text: str, *, is_first: bool = True) -> NDArray[np.int32]:
        text = without_surrogates(text)
        wants_space = self._metaspace == "always" or (self._metaspace == "first" and is_first)
        if wants_space and text and not text.startswith((" ", SPACE_MARK)):
            text = " " + text
        stretches = text.split(SPACE_MARK) if self.keeps_mark else [text]
        parts = [self._processor.encode(stretches[0], return_type="numpy")]
        for stretch in stretches[1:]:
            parts += [self._mark_ids, self._processor.encode(stretch, return_type="numpy")]
        return np.concatenate(parts)

    def encode_to_arrays(self, texts: Iterable[str]) -> list[TokenArray]:
        """`encode_to_array` for each text."""
        return [self.encode_to_array(text) for text in texts]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` for each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; control pieces give nothing, and added tokens their names.

        Raises:
            TokenizerError: An id is outside the vocabulary.
        """
        text = self._text_of(checked_ids(ids, self.vocab_size))
        leads = self._metaspace in ("first", "always")
        return text.removeprefix(" ") if leads else text

    def _text_of(self, checked: list[int]) -> str:
        if self._names.keys().isdisjoint(checked):
            return self._text(checked)
        parts: list[str] = []
        for is_added, run in groupby(checked, key=self._names.__contains__):
            if is_added:
                parts += [self._names[token] for token in run]
            else:
                parts.append(self._text(list(run), is_first=not parts))
        return "".join(parts)

    def _text(self, ids: list[int], *, is_first: bool = True) -> str:
        """Text of the model's own ids, which begins with a space unless it comes first."""
        if unknown := [token for token in ids if token >= self._pieces]:
            raise unknown_id(unknown[0], self.vocab_size)
        text = str(self._processor.decode(ids))
        begins = next((i for i in ids if not self._processor.is_control(i)), None)
        if is_first or begins is None or not self._loses_space:
            return text
        return " " + text if self._processor.id_to_piece(begins).startswith(SPACE_MARK) else text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that one id adds to a text; of a special one, its name.

        Raises:
            TokenizerError: The id is outside the vocabulary.
        """
        (checked,) = checked_ids([token_id], self.vocab_size)
        if checked in self._names:
            return self._names[checked].encode()
        if checked >= self._pieces:
            raise unknown_id(checked, self.vocab_size)
        piece = str(self._processor.id_to_piece(checked))
        if self._processor.is_byte(checked):
            return bytes([int(piece[1:-1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def save(self, folder: str | Path) -> None:
        """Write the model to `tokenizer.model`, and to `tokenizer_config.json` what goes beyond it.

        Raises:
            TokenizerError: The folder can't be written.
        """
        write_files(
            folder, {CONFIG_FILE: to_json(self.configuration()), SENTENCEPIECE_FILE: self._model}
        )

    def configuration(self) -> dict[str, Any]:
        """The content of `tokenizer_config.json`: added tokens, and the names of the roles."""
        names = {token_id: name for name, token_id in self._special_ids.items()}
        ids = {"pad": self.pad_id, "unk": self.unk_id, "bos": self.bos_id, "eos": self.eos_id}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "added_tokens_decoder": {str(token.id): _flags(token) for token in self._added},
            **{f"{role}_token": None if i is None else names[i] for role, i in ids.items()},
            "clean_up_tokenization_spaces": False,
            **({} if self._metaspace is None else {_METASPACE_KEY: self._metaspace}),
        }

    @property
    def keeps_mark(self) -> bool:
        """Whether U+2581 in a text is no space here, but comes back as it was."""
        return bool(self._mark_ids.size)

    @property
    def metaspace(self) -> Metaspace | None:
        """Which stretches of text get a space in front; None where the model decides."""
        return self._metaspace

    @property
    def model_bytes(self) -> bytes:
        """The content of the model's file."""
        return self._model

    @property
    def added_tokens(self) -> list[AddedToken]:
        """The tokens that are looked for in a text, those of the model itself included."""
        return list(self._tokens)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The tokenizer in a folder, with what the files beside the model say.

        Args:
            path: A folder with `tokenizer.model`, or a model in a folder.

        Raises:
            TokenizerError: A file is missing or garbled, or is no SentencePiece model.
        """
        path = Path(path)
        file = path / SENTENCEPIECE_FILE if path.is_dir() else path
        bare = cls(file)
        names = {token_id: name for name, token_id in bare.special_tokens.items()}
        added = listed_tokens(file.parent)
        names |= {token.id: token.content for token in added}
        return cls(
            bare.model_bytes,
            added_tokens=added,
            roles=named_roles(file.parent, names),
            metaspace=_saved_metaspace(file.parent),
        )

    def fingerprint(self) -> str:
        """SHA-256 hex digest of the model file and of added tokens."""
        added = to_json([asdict(token) for token in self._added]) if self._added else b""
        spaces = (self._metaspace or "").encode()
        return hashlib.sha256(self._model + added + spaces).hexdigest()


def _processor(model: bytes, name: str) -> sentencepiece.SentencePieceProcessor:
    # An empty model is valid to the library, which then complains at every call instead.
    try:
        if model:
            return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise _no_model(name) from error
    raise _no_model(name)


def _saved_metaspace(folder: Path) -> Metaspace | None:
    path = folder / CONFIG_FILE
    value = read_json(path).get(_METASPACE_KEY) if path.is_file() else None
    if value is not None and value not in METASPACES:
        raise TokenizerError(
            f"{path} has {_METASPACE_KEY} {value!r}; choose one of {', '.join(METASPACES)}"
        )
    return value


def _mark_ids(processor: sentencepiece.SentencePieceProcessor | None) -> NDArray[np.int32]:
    """The three bytes of U+2581, where the model tells it from a space by them; else nothing.

    That needs pieces for bytes, and spaces that neither vanish nor are added, so that text can be
    encoded in stretches.
    """
    if processor is None:
        return np.array([], dtype=np.int32)
    ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
    spaces = "".join(processor.encode("   ", out_type=str))
    usable = all(map(processor.is_byte, ids)) and spaces == 3 * SPACE_MARK
    return np.array(ids if usable else [], dtype=np.int32)


def _beyond(
    own: Mapping[str, AddedToken], added_tokens: Iterable[AddedToken]
) -> tuple[AddedToken, ...]:
    """The added tokens that are more than what the model says itself.

    Raises:
        TokenizerError: Two have one id.
    """
    beyond: dict[int, AddedToken] = {}
    for token in added_tokens:
        if token.id in beyond:
            raise TokenizerError(
                f"the id {token.id} stands for both {beyond[token.id].content!r} and "
                f"{token.content!r}: give each token an id of its own"
            )
        if token.content not in own or own[token.content].id != token.id:
            beyond[token.id] = token
    return tuple(beyond.values())


def _flags(token: AddedToken) -> dict[str, Any]:
    return {name: value for name, value in asdict(token).items() if name != "id"}


def _no_model(name: str) -> TokenizerError:
    return TokenizerError(
        f"{name} can't be read as a SentencePiece model: "
        f"give the .model file that its training wrote"
    )
