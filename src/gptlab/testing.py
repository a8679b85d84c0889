"""Invariants that a GPT keeps, to be run on a model of one's own.

Each check computes the same thing in two ways, without dropout, and raises an AssertionError of
one line where they differ. Deviations are in units of the largest value that was expected;
the tolerance, if not given, is the square root of the precision of the model's numbers. Nothing
about the model changes: its mode, its gradients and torch's global generator are left alone.

Letters: B batch, T length, V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model import GPT, KVCache

__all__ = [
    "check_batch_independence",
    "check_cache",
    "check_causality",
    "check_documents",
    "check_loss_split",
    "check_model",
]

_ROWS, _LENGTH = 3, 12


def check_model(
    model: GPT, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """Run every check below; that of gradients not with a quantized model, which has none.

    Args:
        model: What to check.
        tokens: (B, T) int64 to check it with, at least two rows; drawn at random if not given.
        tolerance: Largest deviation allowed.

    Raises:
        AssertionError: An invariant does not hold.
    """
    for check in (check_causality, check_batch_independence, check_cache, check_documents):
        check(model, tokens=tokens, tolerance=tolerance)
    if model.quantization is None:
        check_loss_split(model, tokens=tokens, tolerance=tolerance)


def check_causality(
    model: GPT, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """Another token at a place moves no logits before it.

    Raises:
        AssertionError: It does.
    """
    with _evaluating(model), torch.no_grad():
        tokens = _random_tokens(model) if tokens is None else tokens
        logits_BTV = model(tokens)
        for place in range(1, tokens.shape[1]):
            edited = tokens.clone()
            edited[:, place] = (edited[:, place] + 1) % model.config.vocab_size
            moved_BTV = model(edited)[:, :place]
            _compare("causality", moved_BTV, logits_BTV[:, :place], tolerance)


def check_batch_independence(
    model: GPT, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """A row of a batch has the logits that it has alone.

    Raises:
        AssertionError: It has others.
    """
    with _evaluating(model), torch.no_grad():
        tokens = _random_tokens(model) if tokens is None else tokens
        alone_BTV = torch.cat([model(row) for row in _rows(tokens)])
        _compare("batch independence", model(tokens), alone_BTV, tolerance)


def check_cache(
    model: GPT, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """Tokens read through a cache have the logits that they have without one.

    They are read one by one, in chunks, and with rows that are one token apart.

    Raises:
        AssertionError: They have others.
    """
    with _evaluating(model), torch.no_grad():
        tokens = _random_tokens(model) if tokens is None else tokens
        logits_BTV = model(tokens)
        for size in (1, 5):
            cache = _empty_cache(model, tokens)
            starts = range(0, tokens.shape[1], size)
            parts = [model(tokens[:, start : start + size], cache=cache) for start in starts]
            _compare("cache", torch.cat(parts, dim=1), logits_BTV, tolerance)
        for apart in range(1, tokens.shape[1] - 1):
            cache = _empty_cache(model, tokens)
            counts = [apart + row % 2 for row in range(len(tokens))]
            model(tokens[:, : apart + 1], cache=cache, counts=counts)
            rows, places = torch.arange(len(tokens)), torch.tensor(counts)
            next_BV = model(tokens[rows, places].unsqueeze(1), cache=cache)[:, 0]
            _compare("cache of uneven rows", next_BV, logits_BTV[rows, places], tolerance)


def check_documents(
    model: GPT, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """A document that shares a row with others has the logits that it has alone.

    Each row is read as three documents, and then once for each of them with the others edited.

    Raises:
        AssertionError: It has others.
    """
    with _evaluating(model), torch.no_grad():
        tokens = _random_tokens(model) if tokens is None else tokens
        documents, positions = _three_documents(tokens)
        logits_BTV = model(tokens, documents=documents, positions=positions)
        for number in set(documents.flatten().tolist()):
            own = documents == number
            edited = torch.where(own, tokens, (tokens + 1) % model.config.vocab_size)
            moved_BTV = model(edited, documents=documents, positions=positions)
            _compare("separation of documents", moved_BTV[own], logits_BTV[own], tolerance)
            for row, in_row in enumerate(own):
                alone_TV = model(tokens[row, in_row].unsqueeze(0))[0]
                packed_TV = logits_BTV[row, in_row]
                _compare("documents in a row", packed_TV, alone_TV, tolerance)


def check_loss_split(
    model: GPT, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """The gradient of a batch's summed loss is the sum of its rows' gradients.

    Raises:
        AssertionError: It is another.
    """
    with _evaluating(model):
        tokens = _random_tokens(model) if tokens is None else tokens
        parts = torch.stack([_gradient(model, row) for row in _rows(tokens)])
        _compare("loss split", parts.sum(dim=0), _gradient(model, tokens), tolerance)


def _gradient(model: GPT, tokens: Tensor) -> Tensor:
    """All gradients of the summed loss in one vector."""
    targets = tokens.roll(-1, dims=1).flatten()
    loss = F.cross_entropy(model(tokens).flatten(0, 1), targets, reduction="sum")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def _rows(tokens: Tensor) -> list[Tensor]:
    return [tokens[row : row + 1] for row in range(len(tokens))]


def _random_tokens(model: GPT) -> Tensor:
    shape = (_ROWS, min(_LENGTH, model.config.seq_len))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, shape, generator=generator)
    return tokens.to(model.device)


def _three_documents(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each token's document and its place in it, (B, T) int64 each."""
    rows, length = tokens.shape
    places_T = torch.arange(length, device=tokens.device)
    # The borders lie elsewhere in each row, and two of them on one place make two documents.
    first_B1 = 1 + torch.arange(rows, device=tokens.device).unsqueeze(1) % max(1, length // 2)
    second_B1 = (first_B1 + length) // 2
    documents = (places_T >= first_B1).long() + (places_T >= second_B1).long()
    starts = torch.where(documents == 0, 0, torch.where(documents == 1, first_B1, second_B1))
    return documents, places_T - starts


def _empty_cache(model: GPT, tokens: Tensor) -> KVCache:
    return KVCache(
        model.config,
        batch_size=tokens.shape[0],
        capacity=tokens.shape[1],
        device=model.device,
        dtype=model.dtype,
    )


def _compare(invariant: str, actual: Tensor, expected: Tensor, tolerance: float | None) -> None:
    precision = torch.finfo(expected.dtype)
    allowed = precision.eps**0.5 if tolerance is None else tolerance
    scale = expected.abs().max().clamp_min(precision.tiny)
    deviation = ((actual - expected).abs().max() / scale).item()
    # The negation also catches a deviation that is no number.
    if not deviation <= allowed:
        raise AssertionError(
            f"{invariant} does not hold: the largest deviation is {deviation:.2g}, the tolerance "
            f"{allowed:.2g}"
        )


@contextmanager
def _evaluating(model: GPT) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
