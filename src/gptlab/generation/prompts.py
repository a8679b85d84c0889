"""What a model reads before it writes: prompts, or the sources of one with an encoder."""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation.rows import Row
from gptlab.generation.texts import make_rows
from gptlab.generation.vocabulary import unknown_ids
from gptlab.model import Network, Transformer
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.base import SpecialNames
from gptlab.tokenizer.pair import end_id, source_of, start_id, target_of


class Prompts:
    """Turns texts into rows for a model.

    Args:
        model: What reads them.
        tokenizer: Its own.
        allow_special: Whether names of special tokens become their ids; they are plain text if not.
    """

    def __init__(self, model: Network, tokenizer: Tokenizer, *, allow_special: bool) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._allowed_special: SpecialNames = "all" if allow_special else ()

    def encode(self, prompt: str) -> list[int]:
        """Ids of `prompt`, as `Generator.encode_prompt` says."""
        if isinstance(self._model, Transformer):
            of_sources = source_of(self._tokenizer)
            ids = of_sources.encode(prompt, allowed_special=self._allowed_special)
            return [*ids, end_id(of_sources)]
        tokenizer = self._tokenizer
        ids = tokenizer.encode(prompt, allowed_special=self._allowed_special)
        if ids:
            return ids
        start = tokenizer.bos_id if tokenizer.eos_id is None else tokenizer.eos_id
        if start is None:
            raise ConfigError("the prompt is empty; give it some text")
        return [start]

    def rows(
        self,
        prompts: Sequence[Sequence[int]],
        config: SamplingConfig,
        *,
        eos_id: int | None = None,
    ) -> list[Row]:
        """What `texts.make_rows` makes of prompts of ids for this model and tokenizer.

        A target is never longer than the model has room for.
        """
        sources = None
        if isinstance(self._model, Transformer):
            sources, prompts = prompts, [[start_id(self._tokenizer)]] * len(prompts)
            room = self._model.config.seq_len - 1
            config = config.replace(max_new_tokens=min(config.max_new_tokens, room))
        return make_rows(
            target_of(self._tokenizer),
            prompts,
            config,
            sources=sources,
            vocab_size=self._model.config.vocab_size,
            unknown_V=self.unknown_V,
            eos_id=eos_id,
        )

    @cached_property
    def unknown_V(self) -> Tensor | None:
        """(V,) bool, the model's ids that the tokenizer does not have; None if it has all."""
        vocab_size, device = self._model.config.vocab_size, self._model.device
        return unknown_ids(target_of(self._tokenizer), vocab_size, device=device)
