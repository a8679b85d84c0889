"""The heads there are: what a model says of a text, from the hidden states of its tokens.

Letters: B batch, T length, D model width, C labels, K values.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.config.heads import IGNORED, OWN, HeadSettings
from gptlab.errors import ConfigError
from gptlab.model.head import Head
from gptlab.model.init import initialise
from gptlab.model.stack import Stack, require_alone


class ClassificationHead(Head):
    """Logits of C labels for each text: a linear layer on the pooled states."""

    targets = "class"

    def __init__(self, settings: HeadSettings, *, width: int) -> None:
        super().__init__(settings, width=width)
        self.proj = nn.Linear(width, _count(settings))

    def forward(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits, (B, C)."""
        logits: Tensor = self.proj(pooled(hidden_BTD, lengths_B, self.settings.pooling))
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """-log p of each row's label; 0 of an ignored one."""
        return _nats(outputs, targets)

    def estimate(self, outputs: Tensor) -> Tensor:
        """The likeliest label's number."""
        return outputs.argmax(dim=-1)

    def answer(self, output: Tensor, places: Sequence[int]) -> dict[str, Any]:  # noqa: ARG002
        """The likeliest label, and the probability of each."""
        shares = output.float().softmax(dim=-1).tolist()
        best = max(range(len(shares)), key=shares.__getitem__)
        labels = self.settings.labels
        return {
            "label": labels[best],
            "probabilities": dict(zip(labels, shares, strict=True)),
        }


class TokenClassificationHead(Head):
    """Logits of C labels for each token: a linear layer on each state."""

    targets = "word_classes"

    def __init__(self, settings: HeadSettings, *, width: int) -> None:
        super().__init__(settings, width=width)
        self.proj = nn.Linear(width, _count(settings))

    def forward(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:  # noqa: ARG002
        """Logits, (B, T, C)."""
        logits: Tensor = self.proj(hidden_BTD)
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """-log p of each token's label; 0 of an ignored one."""
        return _nats(outputs, targets)

    def estimate(self, outputs: Tensor) -> Tensor:
        """The likeliest label's number."""
        return outputs.argmax(dim=-1)

    def answer(self, output: Tensor, places: Sequence[int]) -> dict[str, Any]:
        """The likeliest label of each word that was read, and its probability."""
        probabilities, numbers = output[list(places)].float().softmax(dim=-1).max(dim=-1)
        return {
            "labels": [self.settings.labels[number] for number in numbers.tolist()],
            "probabilities": probabilities.tolist(),
        }


class RegressionHead(Head):
    """K numbers for each text: a linear layer on the pooled states."""

    def __init__(self, settings: HeadSettings, *, width: int) -> None:
        super().__init__(settings, width=width)
        self.proj = nn.Linear(width, settings.num_values or 1)

    def forward(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Values, (B, K)."""
        values: Tensor = self.proj(pooled(hidden_BTD, lengths_B, self.settings.pooling))
        return values

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The squared error of each row, the mean over its values."""
        return (outputs.float() - targets).square().mean(dim=-1)

    def estimate(self, outputs: Tensor) -> Tensor:
        """The values."""
        return outputs.float()

    def answer(self, output: Tensor, places: Sequence[int]) -> dict[str, Any]:  # noqa: ARG002
        """The values."""
        return {"values": output.float().tolist()}


class EmbeddingHead(Head):
    """A vector for each text, its pooled states; alike for texts that are alike.

    It has no weights: what learns is the model below it, from pairs of texts and how similar they
    are, as the cosine of their vectors (Sentence-BERT, https://arxiv.org/abs/1908.10084).
    """

    targets = "similarity"

    def forward(self, hidden_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Vectors, (B, D)."""
        vectors = pooled(hidden_BTD, lengths_B, self.settings.pooling)
        return F.normalize(vectors.float(), dim=-1) if self.settings.normalise else vectors

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The squared error of each pair's cosine."""
        return (self.estimate(outputs) - targets).square().squeeze(-1)

    def estimate(self, outputs: Tensor) -> Tensor:
        """The cosine of each pair, (B, 1)."""
        first, second = outputs.float().unbind(dim=1)
        return F.cosine_similarity(first, second, dim=-1).unsqueeze(-1)

    def answer(self, output: Tensor, places: Sequence[int]) -> dict[str, Any]:  # noqa: ARG002
        """The vector."""
        return {"embedding": output.float().tolist()}


HEADS: Mapping[str, type[Head]] = MappingProxyType(
    {
        "sequence_classification": ClassificationHead,
        "regression": RegressionHead,
        "token_classification": TokenClassificationHead,
        "embedding": EmbeddingHead,
    }
)
"""The class of each head. A language model is a Stack without one: it has its own logits."""


def head_class(settings: HeadSettings, own: type[Head] | None = None) -> type[Head] | None:
    """The class that `settings` name; None for a language model.

    Args:
        settings: What the head is.
        own: The class of a head of one's own.

    Raises:
        ConfigError: It is one's own, and not given; or a class is given beside another head.
    """
    if settings.head == OWN:
        if own is None:
            raise ConfigError(
                "the model's head is a class of your own; give it, as in "
                "gptlab.ModelWithHead.load(folder, head=MyHead) or gptlab.train(config, "
                "head=MyHead)"
            )
        return own
    if own is not None:
        raise ConfigError(
            f"the class {own.__name__} was given, but the head is {settings.head}; write "
            f"head='{OWN}', or leave the class out"
        )
    return HEADS.get(settings.head)


def add_head(
    model: Stack,
    settings: HeadSettings,
    *,
    own: type[Head] | None = None,
    seed: int | None = None,
) -> None:
    """Put a new head on `model`, in place of one that it may have; none for a language model.

    The head for next tokens stays, and learns nothing while another one stands on the model.

    Args:
        model: What it stands on.
        settings: What it is.
        own: The class of a head of one's own.
        seed: Of its weights; torch's global generator draws them if None.

    Raises:
        ConfigError: See `head_class`; or it has too few labels, or odd parameters; or the model is
            an encoder-decoder.
    """
    kind = head_class(settings, own)
    if kind is None:
        model.head = None
        return
    require_alone(model, "have a head")
    head = kind(settings, width=model.config.embed_dim)
    # Other numbers than those that the embedding begins with.
    initialise(nn.ModuleDict({"head": head}), model.config, seed=None if seed is None else seed + 1)
    model.head = head.to(device=model.device, dtype=model.dtype).train(model.training)
    if not model.config.tie_embeddings:
        model.lm_head.requires_grad_(False)


def pooled(hidden_BTD: Tensor, lengths_B: Tensor, pooling: str) -> Tensor:
    """What stands for each text, (B, D): its last state, or the mean over its `lengths_B`."""
    if pooling == "last":
        rows = torch.arange(len(lengths_B), device=hidden_BTD.device)
        return hidden_BTD[rows, lengths_B - 1]
    places_T = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device)
    is_filling_BT1 = (places_T >= lengths_B.unsqueeze(-1)).unsqueeze(-1)
    sums_BD = hidden_BTD.float().masked_fill(is_filling_BT1, 0.0).sum(dim=1)
    return (sums_BD / lengths_B.unsqueeze(-1)).to(hidden_BTD.dtype)


def _count(settings: HeadSettings) -> int:
    if len(settings.labels) < 2:
        raise ConfigError(
            f"{settings.head} needs at least two labels, not {len(settings.labels)}; name them "
            "with labels"
        )
    return len(settings.labels)


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """-log p of each target, shaped as they are; 0 of those that are ignored."""
    flat = F.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return flat.view(targets.shape)
