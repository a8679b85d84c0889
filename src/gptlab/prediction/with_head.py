"""A model, its tokenizer and its head as one thing: texts in, answers out.

Letters: B batch, T length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptlab import checkpoint, interop
from gptlab.checkpoint.files import read_header
from gptlab.config import HeadSettings, SamplingConfig
from gptlab.config.heads import OWN
from gptlab.config.model import AttentionBackend
from gptlab.errors import CheckpointError, ConfigError
from gptlab.model.encoder import Encoder
from gptlab.model.head import Head
from gptlab.model.heads import add_head
from gptlab.model.stack import Stack, require_alone
from gptlab.prediction.continuation import continue_texts
from gptlab.prediction.filled_masks import fill_masks
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.words import EncodedText, encode_text, encode_words

_GREEDY = SamplingConfig(max_new_tokens=50, temperature=0.0)

Text = str | Sequence[str]
"""A text, or the words that it is made of."""


class ModelWithHead:
    """A backbone, its tokenizer and a head: all that turns texts into answers.

    Args:
        backbone: Put into evaluation mode. With `head` given, that stands on it from now on.
        tokenizer: Its own.
        head: What is to be said of a text; what stands on the backbone already if None, and
            without such a thing a GPT says how texts go on, and an encoder what is hidden in them.

    Raises:
        ConfigError: The head is of another width, the tokenizer of another size, or the backbone
            an encoder-decoder.
    """

    def __init__(self, backbone: Stack, tokenizer: Tokenizer, head: Head | None = None) -> None:
        require_alone(backbone, "have a head")
        width = backbone.config.embed_dim
        if head is not None:
            if head.width != width:
                raise ConfigError(
                    f"the head takes states of width {head.width}, but the backbone's have {width};"
                    f" make it with width={width}"
                )
            backbone.head = head.to(device=backbone.device, dtype=backbone.dtype)
        if tokenizer.vocab_size > backbone.config.vocab_size:
            raise ConfigError(
                f"the tokenizer has {tokenizer.vocab_size} ids, but the backbone "
                f"{backbone.config.vocab_size}; give the tokenizer it was trained with"
            )
        self.backbone, self.tokenizer = backbone.eval(), tokenizer

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        head: type[Head] | None = None,
        device: torch.device | str = "cpu",
        attention: AttentionBackend = "auto",
    ) -> "ModelWithHead":
        """What `save`, or a training run, wrote; a plain language model is one without a head.

        Args:
            path: A run, a checkpoint, or whatever `gptlab.load` takes.
            head: The class of a head of one's own.
            device: Where the model goes.
            attention: The backend of this machine.

        Raises:
            CheckpointError: There is none, it is damaged, or it has no tokenizer.
            ConfigError: The head is of one's own and its class is missing, or the other way round.
        """
        try:
            folder = checkpoint.find_checkpoint(path)
            read_header(folder)
        except CheckpointError:
            # Of another tool, or nothing: who opens any model says which.
            return cls(*interop.load_gpt(path, device=device, attention=attention))
        found = checkpoint.load_with_head(folder, device=device, attention=attention, own=head)
        return cls(*found)

    @classmethod
    def from_backbone(
        cls,
        path: str | Path,
        *,
        head: str | type[Head],
        seed: int = 0,
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> "ModelWithHead":
        """A new head, its weights drawn from `seed`, on the language model at `path`.

        Args:
            path: Whatever `gptlab.load` takes.
            head: The name of a head, or a class of one's own.
            seed: Of the head's weights.
            device: Where the model goes.
            settings: More fields of `HeadSettings`: labels, pooling, ...

        Raises:
            CheckpointError: There is no such model.
            ConfigError: A setting is unknown or does not fit.
        """
        own = None if isinstance(head, str) else head
        made = HeadSettings(head=OWN if own else head, **settings)
        backbone, tokenizer = interop.load(path, device=device)
        if not isinstance(backbone, Stack):
            raise CheckpointError(
                f"{path} is an encoder-decoder, on which no head stands; give a GPT or an "
                "encoder alone"
            )
        add_head(backbone, made, own=own, seed=seed)
        return cls(backbone, tokenizer)

    @property
    def settings(self) -> HeadSettings:
        """What the head is."""
        head = self.backbone.head
        return HeadSettings() if head is None else head.settings

    def save(self, folder: str | Path) -> Path:
        """Write everything that `load` needs into `folder`, whole or not at all.

        Raises:
            CheckpointError: It can't be written, or something else is at `folder`.
        """
        return checkpoint.save(folder, self.backbone, self.tokenizer)

    def predict(self, texts: Sequence[Text], *, batch_size: int = 32) -> list[dict[str, Any]]:
        """The answer for each of `texts`, as JSON holds it; it depends on that text alone.

        Of a text longer than the backbone's seq_len, only the beginning is read.

        Args:
            texts: What to read. For token classification each may be a list of words; a string
                is cut at its spaces.
            batch_size: Texts to read at once.

        Raises:
            ConfigError: `texts` is a single string, or has words where the head wants none.
        """
        if isinstance(texts, str):
            raise ConfigError("texts is a single string; give a list of texts")
        head = self.backbone.head
        if head is None:
            rows = [self._plain(text) for text in texts]
            if isinstance(self.backbone, Encoder):
                filled = fill_masks(self.backbone, self.tokenizer, rows, batch_size=batch_size)
                return [asdict(one) for one in filled]
            found = continue_texts(self.backbone, self.tokenizer, rows, _GREEDY, batch_size)
            return [asdict(continuation) for continuation in found]
        answers: list[dict[str, Any]] = [{} for _ in texts]
        encoded = [self.encode(text) for text in texts]
        for index, output in self._outputs(encoded, batch_size):
            answers[index] = head.answer(output, encoded[index].places)
        if head.targets == "word_classes":
            return [_over_words(_words(t), a) for t, a in zip(texts, answers, strict=True)]
        return answers

    def encode(self, text: Text) -> EncodedText:
        """The ids of `text` that the backbone reads."""
        length, head = self.backbone.config.seq_len, self.backbone.head
        if head is not None and head.targets == "word_classes":
            return encode_words(self.tokenizer, _words(text), length=length)
        return encode_text(self.tokenizer, self._plain(text), length=length)

    def _plain(self, text: Text) -> str:
        if isinstance(text, str):
            return text
        raise ConfigError(
            f"a text came as {len(text)} words, but a {self.settings.head} head reads whole texts; "
            "give a string"
        )

    @torch.no_grad()
    def _outputs(
        self, encoded: Sequence[EncodedText], batch_size: int
    ) -> Iterator[tuple[int, Tensor]]:
        """The number of each text and the head's output for it, on the CPU; in any order."""
        backbone = self.backbone
        assert backbone.head is not None
        # Texts of like length together: less filling.
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
        for first in range(0, len(order), batch_size):
            indices = order[first : first + batch_size]
            tokens_BT, lengths_B = padded([encoded[i].ids for i in indices], backbone.device)
            outputs = backbone.head(backbone.read_texts(tokens_BT, lengths_B), lengths_B).cpu()
            yield from zip(indices, outputs, strict=True)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows of ids filled up at the end, (B, T) int64, and their lengths, (B,) int64."""
    lengths = [len(row) for row in rows]
    tokens_BT = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    for number, row in enumerate(rows):
        tokens_BT[number, : len(row)] = torch.tensor(row)
    return tokens_BT.to(device), torch.tensor(lengths, device=device)


def _words(text: Text) -> list[str]:
    return text.split() if isinstance(text, str) else list(text)


def _over_words(words: list[str], answer: dict[str, Any]) -> dict[str, Any]:
    """An answer over all words: None for those beyond what the model reads."""
    rest = len(words) - len(answer["labels"])
    lists = {name: [*values, *[None] * rest] for name, values in answer.items()}
    return {"tokens": words, **lists}
