"""The encoder-decoder Transformer: a source in, and the target that belongs to it, token by token.

    source --> encoder --> memory
                             |
    target --> decoder ------+----> logits of the token after each of the target

Letters: B batch, S source length, T target length, D model width, V vocabulary of targets.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from gptlab.config import TransformerConfig
from gptlab.config.transformer import Architecture
from gptlab.errors import ConfigError
from gptlab.model.blocks import Block
from gptlab.model.decoder import Decoder
from gptlab.model.encoder import Encoder
from gptlab.model.memory import Memory
from gptlab.model.network import Network

# Far from the seeds of heads, and of runs that count theirs up; a generator of torch on a CPU looks
# at the lowest 32 bits alone.
_OF_DECODER = 1 << 31


class Transformer(Network):
    """Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, of the blocks that a GPT is made of.

    Both are rows that may be filled up at the end with any id. Of sources, `source_lengths` says
    what is filling; of targets nothing has to, for no token sees what is behind it.

    Args:
        config: Its shape and parts.
        seed: Seed of the initial weights; torch's global generator draws them if None.

    Raises:
        ConfigError: The settings are of another network.
    """

    architecture: ClassVar[Architecture] = "transformer"
    config: TransformerConfig

    def __init__(self, config: TransformerConfig, *, seed: int | None = None) -> None:
        super().__init__()
        if not isinstance(config, TransformerConfig):
            raise ConfigError(
                f"a Transformer's settings are a TransformerConfig, not a {type(config).__name__}; "
                "make one of the same settings"
            )
        self.config = config
        own = None if seed is None else seed + _OF_DECODER
        decoder = Decoder(config.decoder, seed=own)
        lender = decoder if config.shares_embeddings else None
        self.encoder = Encoder(config.encoder, seed=seed, lender=lender, has_logits=False)
        self.decoder = decoder
        self.head = None

    def forward(
        self, source: Tensor, target: Tensor, *, source_lengths: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `target`, which the source and it decide.

        Args:
            source: (B, S) int64.
            target: (B, T) int64.
            source_lengths: (B,) int64, how many tokens of each source are no filling, at least 1; S
                if None.

        Raises:
            ConfigError: The rows differ, or there are more tokens than seq_len.
        """
        return self.logits(self.hidden_states(source, target, source_lengths=source_lengths))

    def hidden_states(
        self, source: Tensor, target: Tensor, *, source_lengths: Tensor | None = None
    ) -> Tensor:
        """What `logits` turns into logits: the last norm's output, (B, T, D); as `forward`."""
        if len(source) != len(target):
            raise ConfigError(
                f"{len(source)} sources came with {len(target)} targets; give a target for each"
            )
        memory_BSD = self.encode(source, lengths=source_lengths)
        return self.decoder.read_beside(target, memory_BSD, lengths=source_lengths)

    def encode(self, source: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """What the decoder reads of sources (B, S) int64: their hidden states, (B, S, D)."""
        return self.encoder.hidden_states(source, lengths=lengths)

    def remember(self, source: Tensor, *, lengths: Tensor | None = None) -> list[Memory]:
        """Keys and values of sources for each layer of the decoder, computed once for a cache."""
        return self.decoder.remember(self.encode(source, lengths=lengths), lengths=lengths)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) from hidden states (..., D)."""
        return self.decoder.logits(hidden)

    @property
    def all_blocks(self) -> Sequence[Block]:
        """The encoder's blocks, then the decoder's."""
        return [*self.encoder.all_blocks, *self.decoder.all_blocks]

    def flops_per_token(self) -> int:
        """Those of training on one token of a source and one of a target."""
        return self.encoder.flops_per_token() + self.decoder.flops_per_token()
