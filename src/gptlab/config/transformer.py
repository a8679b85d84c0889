"""What an encoder-decoder Transformer is made of beside what a GPT is."""

from typing import Literal, Self

from pydantic import PositiveInt, model_validator

from gptlab.config.model import ModelConfig
from gptlab.errors import ConfigError

Architecture = Literal["gpt", "encoder", "transformer"]


class TransformerConfig(ModelConfig):
    """The shape and the parts of an encoder and a decoder.

    They differ in their number of blocks and their vocabularies at most. `num_layers` and
    `vocab_size` are the decoder's, and `seq_len` is the longest source and the longest target.
    """

    src_vocab_size: PositiveInt | None = None
    """Number of token ids of sources; those of the targets if not given."""
    encoder_layers: PositiveInt | None = None
    """Number of blocks of the encoder; num_layers if not given."""
    share_embeddings: bool | None = None
    """Whether one matrix embeds sources and targets; so it is with one vocabulary if not given."""

    @property
    def source_size(self) -> int:
        """Token ids of sources."""
        return self.src_vocab_size or self.vocab_size

    @property
    def shares_embeddings(self) -> bool:
        """Whether one matrix embeds sources and targets."""
        if self.share_embeddings is None:
            return self.src_vocab_size is None
        return self.share_embeddings

    @property
    def encoder(self) -> ModelConfig:
        """The settings of the encoder alone."""
        return self.decoder.replace(
            vocab_size=self.source_size, num_layers=self.encoder_layers or self.num_layers
        )

    @property
    def decoder(self) -> ModelConfig:
        """The settings of the decoder alone."""
        return self.part(ModelConfig)

    @model_validator(mode="after")
    def _makes_a_pair(self) -> Self:
        if self.share_embeddings and self.source_size != self.vocab_size:
            raise ConfigError(
                f"share_embeddings needs one vocabulary, but src_vocab_size is "
                f"{self.source_size} and tgt_vocab_size {self.vocab_size}; leave src_vocab_size or "
                "share_embeddings out"
            )
        return self
