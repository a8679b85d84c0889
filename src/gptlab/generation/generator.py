"""What a user talks to: text in, text out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import torch

from gptlab import checkpoint
from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation.engine import Row, continue_rows
from gptlab.generation.stream import TextStream
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer

_DEFAULT = SamplingConfig()


class Generator:
    """Continues texts with a model, which it puts in evaluation mode, and its tokenizer."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: str | Path, *, device: torch.device | str = "cpu") -> "Generator":
        """A generator over a checkpoint, or over a run's newest one.

        Raises:
            CheckpointError: There is none, or it is damaged.
        """
        return cls(*checkpoint.load(path, device=device))

    @overload
    def generate(self, prompt: str, config: SamplingConfig = ...) -> str: ...  # type: ignore[overload-overlap]
    @overload
    def generate(self, prompt: Sequence[str], config: SamplingConfig = ...) -> list[str]: ...

    def generate(
        self, prompt: str | Sequence[str], config: SamplingConfig = _DEFAULT
    ) -> str | list[str]:
        """The text that follows a prompt, without it; for several prompts, a list of texts.

        Under a seed, a prompt is continued the same way whatever else is in the batch; a prompt
        that comes twice is continued in two ways.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        texts = [""] * len(prompts)
        for index, piece in self._stream(prompts, config):
            texts[index] += piece
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str, config: SamplingConfig = _DEFAULT) -> Iterator[str]:
        """The text that follows `prompt`, in pieces as they are made, of whole characters."""
        for _, piece in self._stream([prompt], config):
            yield piece

    def generate_ids(
        self, prompts: Sequence[Sequence[int]], config: SamplingConfig = _DEFAULT
    ) -> list[list[int]]:
        """The new ids that follow each prompt of ids; an end-of-sequence id is not among them.

        Raises:
            ConfigError: Stop texts are given; ids have no text.
        """
        if config.stop:
            raise ConfigError("stop texts need text; use generate, or leave them out")
        new: list[list[int]] = [[] for _ in prompts]
        if prompts:
            rows = _rows(prompts, config)
            for index, token in continue_rows(
                self.model, rows, config, eos_id=self.tokenizer.eos_id
            ):
                new[index].append(token)
        return new

    def encode_prompt(self, prompt: str) -> list[int]:
        """Ids of `prompt`; for an empty one the token that stands between documents.

        Raises:
            ConfigError: The prompt is empty and the vocabulary has no such token.
        """
        ids = self.tokenizer.encode(prompt)
        if ids:
            return ids
        start = self.tokenizer.bos_id if self.tokenizer.eos_id is None else self.tokenizer.eos_id
        if start is None:
            raise ConfigError("the prompt is empty; give it some text")
        return [start]

    def _stream(self, prompts: Sequence[str], config: SamplingConfig) -> Iterator[tuple[int, str]]:
        if not prompts:
            return
        ids = [self.encode_prompt(prompt) for prompt in prompts]
        rows = _rows(ids, config)
        streams = [TextStream(self.tokenizer, stop=config.stop, prompt=prompt) for prompt in ids]
        for index, token in continue_rows(self.model, rows, config, eos_id=self.tokenizer.eos_id):
            piece = streams[index].push(token)
            rows[index].done = streams[index].stopped
            if piece:
                yield index, piece
        for index, stream in enumerate(streams):
            if rest := stream.finish():
                yield index, rest


def _rows(prompts: Sequence[Sequence[int]], config: SamplingConfig) -> list[Row]:
    """A row a prompt, whose seed depends on the prompt's earlier copies and on nothing else."""
    copies: Counter[tuple[int, ...]] = Counter()
    rows = []
    for prompt in prompts:
        generator = torch.Generator()
        if config.seed is None:
            generator.seed()
        else:
            generator.manual_seed(config.seed + copies[tuple(prompt)] * 1_000_003)
        copies[tuple(prompt)] += 1
        rows.append(Row(prompt, generator))
    return rows
