"""Encoder-decoders of others, each with the model of gptlab's that has the same weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformer_weights import HUGGINGFACE, TORCH, Peer
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
)

from gptlab.config import TransformerConfig

PAD, START, END = 0, 1, 2
FIRST = 3
"""The first id that is nothing special."""


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer` with embeddings, the paper's positions, and a head."""

    positions: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.source = nn.Embedding(config.source_size, width)
        self.target = nn.Embedding(config.vocab_size, width)
        self.head = nn.Linear(width, config.vocab_size, bias=False)
        layer = {
            "d_model": width,
            "nhead": config.n_heads,
            "dim_feedforward": config.hidden_dim,
            "dropout": 0.0,
            "activation": {"relu": F.relu, "gelu": F.gelu}[config.activation],
            "batch_first": True,
            "norm_first": config.norm_place == "pre",
        }
        self.core = nn.Transformer(
            **layer,
            num_decoder_layers=config.num_layers,
            custom_encoder=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(**layer),
                config.encoder_layers or config.num_layers,
                norm=nn.LayerNorm(width),
                enable_nested_tensor=False,
            ),
        )
        if config.norm_place == "post":
            # It puts a norm behind the last one, which the paper does not.
            self.core.encoder.norm = self.core.decoder.norm = None
        places = torch.arange(config.seq_len).double().unsqueeze(1)
        angles = places / 10_000 ** (torch.arange(0, width, 2).double() / width)
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        self.register_buffer("positions", table.float(), persistent=False)

    def forward(
        self, source: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor
    ) -> Tensor:
        """(B, T, V)."""
        source_places, target_places = filling(source, lengths), filling(target, target_lengths)
        T = target.shape[1]
        hidden = self.core(
            self._embedded(self.source, source),
            self._embedded(self.target, target),
            tgt_mask=torch.ones(T, T, dtype=torch.bool).triu(1),
            tgt_is_causal=True,
            src_key_padding_mask=source_places,
            tgt_key_padding_mask=target_places,
            memory_key_padding_mask=source_places,
        )
        logits: Tensor = self.head(hidden)
        return logits

    def _embedded(self, embedding: nn.Embedding, tokens: Tensor) -> Tensor:
        rows: Tensor = embedding(tokens) * math.sqrt(embedding.embedding_dim)
        return rows + self.positions[: tokens.shape[1]]


def torch_peer(config: TransformerConfig, dtype: torch.dtype) -> Peer:
    """`torch.nn.Transformer` of these settings."""
    model = drawn(TorchTransformer(config)).to(dtype)
    return Peer(model, config, TORCH, model)


def marian_peer(shape: Mapping[str, int], dtype: torch.dtype, *, scale: bool = True) -> Peer:
    """Marian: norms behind the parts; its sines stand before all of its cosines."""
    model = drawn(MarianMTModel(MarianConfig(**_theirs(shape), scale_embedding=scale)))
    half = shape["embed_dim"] // 2
    return Peer(
        model.to(dtype),
        _ours(shape, norm_place="post", positions="sinusoidal", tie_embeddings=scale),
        HUGGINGFACE,
        lambda *rows: _huggingface(model, *rows),
        scale=1.0 if scale else shape["embed_dim"] ** -0.5,
        order=torch.arange(2 * half).view(2, half).T.flatten(),
    )


def m2m_peer(shape: Mapping[str, int], dtype: torch.dtype, *, scale: bool = True) -> Peer:
    """M2M-100, and NLLB: norms before the parts; sinusoids of other frequencies."""
    model = drawn(
        M2M100ForConditionalGeneration(M2M100Config(**_theirs(shape), scale_embedding=scale))
    )
    model.to(dtype)
    table = model.model.encoder.embed_positions.weights[PAD + 1 :][: shape["seq_len"]]
    return Peer(
        model,
        _ours(shape, norm_place="pre", positions="learned", tie_embeddings=not scale),
        HUGGINGFACE,
        lambda *rows: _huggingface(model, *rows),
        scale=shape["embed_dim"] ** 0.5 if scale else 1.0,
        positions=table,
    )


def _theirs(shape: Mapping[str, int]) -> dict[str, Any]:
    ff = shape["expansion_factor"] * shape["embed_dim"]
    heads, layers = shape["n_heads"], shape["num_layers"]
    return {
        "vocab_size": shape["vocab_size"],
        "decoder_vocab_size": shape["vocab_size"],
        "max_position_embeddings": shape["seq_len"],
        "d_model": shape["embed_dim"],
        "encoder_layers": shape["encoder_layers"],
        "decoder_layers": layers,
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": ff,
        "decoder_ffn_dim": ff,
        "activation_function": "relu",
        "pad_token_id": PAD,
        "bos_token_id": START,
        "decoder_start_token_id": START,
        "eos_token_id": END,
        "forced_eos_token_id": None,
    }


def _ours(shape: Mapping[str, int], **settings: Any) -> TransformerConfig:
    return TransformerConfig(**shape, **settings, activation="relu", bias=True, qk_norm=False)


def _huggingface(
    model: nn.Module, source: Tensor, lengths: Tensor, target: Tensor, target_lengths: Tensor
) -> Tensor:
    found = model(
        input_ids=source.masked_fill(filling(source, lengths), PAD),
        attention_mask=(~filling(source, lengths)).long(),
        decoder_input_ids=target.masked_fill(filling(target, target_lengths), PAD),
    )
    logits: Tensor = found.logits
    return logits


def filling(tokens: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1]) >= lengths.unsqueeze(1)


def drawn(model: Any, *, std: float = 0.2, seed: int = 0) -> Any:
    """The model with every weight off its first value, so that none can hide a wrong mapping."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(mean=parameter.mean().item(), std=std)
    return model.eval()


def rows(
    lengths: Sequence[int], *, vocab_size: int, longest: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows of ids that are nothing special, filled up with others, and their lengths."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), longest or max(lengths))
    tokens = torch.randint(FIRST, vocab_size, shape, generator=generator)
    return tokens, torch.tensor(lengths)


def loss_of(logits: Tensor, target: Tensor, target_lengths: Tensor) -> Tensor:
    """Mean cross-entropy of each target's next tokens, those that are there."""
    labels = target.masked_fill(filling(target, target_lengths), -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
