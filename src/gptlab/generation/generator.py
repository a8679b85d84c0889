"""What a user talks to: text in, text out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import torch

from gptlab import interop
from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation.beam import beam_search
from gptlab.generation.chat import Messages, answer_text, fitted, open_messages, template_beside
from gptlab.generation.compiling import Compile, Compiler
from gptlab.generation.completions import Completion, Found, texts_of_beams
from gptlab.generation.drafts import Drafter
from gptlab.generation.engine import continue_rows
from gptlab.generation.prompts import Prompts
from gptlab.generation.rows import Row, Token
from gptlab.generation.speculative import Acceptance, Speculator
from gptlab.generation.steps import reader_of
from gptlab.generation.texts import RowText
from gptlab.model import Network, Transformer
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.chat import ChatEncoder, ChatTemplate

_DEFAULT = SamplingConfig()


class Generator:
    """Continues texts with a model, which it puts in evaluation mode, and its tokenizer.

    With a model that has an encoder, what is called a prompt is a source, and the text that follows
    is the target that belongs to it, no longer than the model's seq_len. With a temperature of 0 it
    is the likeliest one, token by token.

    Ids of the model that the tokenizer does not have are never drawn.

    Args:
        model: What to generate with.
        tokenizer: Its own.
        compile: Whether single tokens are read by compiled code: `on`, `off`, or `auto` for
            requests so long that it pays.
        drafter: What proposes tokens that the model then checks, one prompt after the other; the
            model alone makes each token if None.
        draft_length: Tokens that it proposes at a time.
        chat_template: How the model's conversations are written, for `chat`.
        allow_special: Whether names of special tokens in prompts become their ids; they are plain
            text if not.

    Raises:
        ConfigError: The model is an encoder alone; or the drafter's vocabulary is another one, the
            model has an encoder beside it, or `draft_length` is not positive.
    """

    def __init__(
        self,
        model: Network,
        tokenizer: Tokenizer,
        *,
        compile: Compile = "auto",
        drafter: Drafter | None = None,
        draft_length: int = 4,
        chat_template: ChatTemplate | None = None,
        allow_special: bool = False,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        """How its conversations are written."""
        self._prompts = Prompts(model, tokenizer, allow_special=allow_special)
        reader = reader_of(model)
        self.compiler = Compiler(reader, compile=compile)
        """Whether single tokens are read by compiled code."""
        self._speculator: Speculator | None = None
        if drafter is not None:
            if reader is not model:
                raise ConfigError(
                    "a drafter is for GPTs, and this model has an encoder; leave it out"
                )
            self._speculator = Speculator(
                reader, drafter, length=draft_length, compiler=self.compiler
            )

    @classmethod
    def load(
        cls, path: str | Path, *, device: torch.device | str = "cpu", compile: Compile = "auto"
    ) -> "Generator":
        """A generator over a checkpoint, or over a run's newest one, with its chat template.

        Raises:
            CheckpointError: There is none, or it is damaged.
            ConfigError: The chat template that is saved with it is damaged.
        """
        model, tokenizer = interop.load(path, device=device)
        return cls(model, tokenizer, compile=compile, chat_template=template_beside(path))

    @property
    def acceptance(self) -> Acceptance | None:
        """How well the drafter has guessed in all texts so far; None without one."""
        return None if self._speculator is None else self._speculator.acceptance

    @overload
    def generate(self, prompt: str, config: SamplingConfig = ...) -> str: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompt: Sequence[str], config: SamplingConfig = ...) -> list[str]: ...

    def generate(
        self, prompt: str | Sequence[str], config: SamplingConfig = _DEFAULT
    ) -> str | list[str]:
        """The text that follows a prompt, without it; for several prompts, a list of texts.

        Under a seed, a prompt is continued the same way whatever else is in the batch; a prompt
        that comes twice is continued in two ways, and read once.
        """
        if isinstance(prompt, str):
            return self.complete([prompt], config)[0].text
        return [completion.text for completion in self.complete(prompt, config)]

    def complete(
        self, prompts: Sequence[str], config: SamplingConfig = _DEFAULT
    ) -> list[Completion]:
        """What follows each prompt, token by token, with what `config.top_logprobs` asks for."""
        texts = [""] * len(prompts)
        tokens: list[list[Token]] = [[] for _ in prompts]
        rows = self.make_rows([self.encode_prompt(prompt) for prompt in prompts], config)
        for index, token, piece in self._pieces(rows):
            texts[index] += piece
            if token is not None:
                tokens[index].append(token)
        return [
            Completion(text, tuple(drawn), row.ending or "length")
            for text, drawn, row in zip(texts, tokens, rows, strict=True)
        ]

    def stream(self, prompt: str, config: SamplingConfig = _DEFAULT) -> Iterator[str]:
        """The text that follows `prompt`, in pieces as they are made, of whole characters."""
        rows = self.make_rows([self.encode_prompt(prompt)], config)
        for _, _, piece in self._pieces(rows):
            if piece:
                yield piece

    def chat(self, messages: Messages, config: SamplingConfig = _DEFAULT) -> str:
        """The assistant's answer to the last of `messages`, which is a user's.

        Where they and the answer would exceed the model's seq_len, the oldest turns are left out,
        but not the system's message.

        Args:
            messages: The conversation, as in [{"role": "user", "content": "Hi"}].
            config: How the answer is drawn, and how long it may be.

        Raises:
            ConfigError: The model has no chat template, or there is nothing to answer.
            DataError: These are no messages.
            TokenizerError: The tokenizer lacks a token of the template.
        """
        return "".join(self.stream_chat(messages, config))

    def stream_chat(self, messages: Messages, config: SamplingConfig = _DEFAULT) -> Iterator[str]:
        """`chat`, in pieces as they are made, of whole characters."""
        encoder = self.chat_encoder()
        room = self.model.config.seq_len - config.max_new_tokens
        prompt, _ = fitted(open_messages(messages), encoder, room=room)
        rows = self.make_rows([prompt], config, eos_id=encoder.end_id)
        pieces = (piece for _, _, piece in self._pieces(rows) if piece)
        yield from answer_text(pieces, encoder.template)

    def chat_encoder(self) -> ChatEncoder:
        """What turns conversations into this model's ids.

        Raises:
            ConfigError: The model has no chat template, or is no GPT.
            TokenizerError: The tokenizer lacks a token of the template.
        """
        if isinstance(self.model, Transformer):
            raise ConfigError(
                "a conversation is for GPTs, and this model turns sources into targets; use "
                "generate"
            )
        if self.chat_template is None:
            raise ConfigError(
                "the model has no chat template; name the one it was trained with, as in "
                "--chat_template chatml"
            )
        return ChatEncoder(self.chat_template, self.tokenizer)

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], config: SamplingConfig = _DEFAULT
    ) -> list[list[int]]:
        """The new ids that follow each prompt of ids; an end-of-sequence id is not among them.

        A source of ids ends with the id that ends a sequence, as `encode_prompt` gives it.

        Raises:
            ConfigError: Stop texts are given; ids have no text.
        """
        if config.stop:
            raise ConfigError("stop texts need text; use generate, or leave them out")
        rows = self.make_rows(prompts, config)
        for _ in self._continue(rows):
            pass
        return [row.new_ids for row in rows]

    def beam_search(
        self, prompt: str, *, beams: int, max_new_tokens: int, length_penalty: float = 1.0
    ) -> list[Found]:
        """The likeliest texts that follow `prompt`, best first, by `beam.beam_search`.

        A target has as many tokens as the model has room for at most.

        Raises:
            ConfigError: A number is out of range, or all would exceed the model's seq_len.
            GenerationError: The model's logits are NaN.
        """
        config = SamplingConfig(max_new_tokens=max_new_tokens)
        (row,) = self.make_rows([self.encode_prompt(prompt)], config)
        ids, eos_id = row.ids, self.tokenizer.eos_id
        found = beam_search(
            self.model,
            ids,
            source=row.source,
            beams=beams,
            max_new_tokens=row.config.max_new_tokens,
            eos_id=eos_id,
            length_penalty=length_penalty,
            unknown_V=self._prompts.unknown_V,
        )
        return texts_of_beams(found, self.tokenizer, prompt=ids, eos_id=eos_id)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of `prompt`; for an empty one the token that stands between documents.

        Those of a source end with the token that ends a sequence.

        Raises:
            ConfigError: The prompt is empty and the vocabulary has no such token.
            TokenizerError: There is no token that ends a source.
        """
        return self._prompts.encode(prompt)

    def make_rows(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig,
        *,
        eos_id: int | None = None,
    ) -> list[Row]:
        """What is continued of prompts of ids, as `encode_prompt` gives them."""
        return self._prompts.rows(prompts, config, eos_id=eos_id)

    def _continue(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Token]]:
        if self._speculator is not None:
            return self._speculator.continue_rows(rows)
        tokens = max((row.config.max_new_tokens for row in rows), default=0)
        return continue_rows(self.model, rows, steps=self.compiler.steps(tokens))

    def _pieces(self, rows: Sequence[Row]) -> Iterator[tuple[int, Token | None, str]]:
        """The row's number, the token, and the text that is certain with it; rests at the end."""
        texts = {id(row): RowText(row, self.tokenizer) for row in rows}
        numbers = {id(row): number for number, row in enumerate(rows)}
        for row, token in self._continue(rows):
            yield numbers[id(row)], token, texts[id(row)].push(token)
        for number, row in enumerate(rows):
            yield number, None, texts[id(row)].finish()
