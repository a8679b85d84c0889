"""Invariants that a network keeps, to be run on a model of one's own.

Each check computes the same thing in two ways, without dropout, and raises an AssertionError of
one line where they differ. Deviations are in units of the largest value that was expected;
the tolerance, if not given, is the square root of the precision of the model's numbers. Nothing
about the model changes: its mode, its gradients and torch's global generator are left alone.

An encoder-decoder is checked with tokens as its targets, beside sources of different lengths that
are drawn at random.

Letters: B batch, T length, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.model import GPT, Encoder, Transformer
from gptlab.testing.cases import Case, compare, evaluating

__all__ = [
    "check_batch_independence",
    "check_cache",
    "check_causality",
    "check_documents",
    "check_loss_split",
    "check_model",
    "check_padding",
]


def check_model(
    model: GPT | Encoder | Transformer,
    *,
    tokens: Tensor | None = None,
    tolerance: float | None = None,
) -> None:
    """Run every check below that such a model can pass.

    An encoder has no cache and sees what is ahead, documents in a row are for GPTs, and a quantized
    model has no gradients.

    Args:
        model: What to check.
        tokens: (B, T) int64 to check it with, at least two rows; drawn at random if not given.
        tolerance: Largest deviation allowed.

    Raises:
        AssertionError: An invariant does not hold.
    """
    if not isinstance(model, Encoder):
        check_causality(model, tokens=tokens, tolerance=tolerance)
    check_batch_independence(model, tokens=tokens, tolerance=tolerance)
    if not isinstance(model, Encoder):
        check_cache(model, tokens=tokens, tolerance=tolerance)
    if isinstance(model, Encoder | Transformer):
        check_padding(model, tokens=tokens, tolerance=tolerance)
    else:
        check_documents(model, tokens=tokens, tolerance=tolerance)
    if model.quantization is None:
        check_loss_split(model, tokens=tokens, tolerance=tolerance)


def check_causality(
    model: GPT | Transformer, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """Another token at a place moves no logits before it.

    Raises:
        AssertionError: It does.
    """
    with evaluating(model), torch.no_grad():
        case = Case.of(model, tokens)
        logits_BTV = case.logits(case.tokens)
        for place in range(1, case.tokens.shape[1]):
            edited = case.tokens.clone()
            edited[:, place] = (edited[:, place] + 1) % model.config.vocab_size
            moved_BTV = case.logits(edited)[:, :place]
            compare("causality", moved_BTV, logits_BTV[:, :place], tolerance)


def check_batch_independence(
    model: GPT | Encoder | Transformer,
    *,
    tokens: Tensor | None = None,
    tolerance: float | None = None,
) -> None:
    """A row of a batch has the logits that it has alone.

    Raises:
        AssertionError: It has others.
    """
    with evaluating(model), torch.no_grad():
        case = Case.of(model, tokens)
        alone_BTV = torch.cat([row.logits(row.tokens) for row in case.rows()])
        compare("batch independence", case.logits(case.tokens), alone_BTV, tolerance)


def check_padding(
    model: Encoder | Transformer, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """What fills up a row that is read both ways, a text or a source, comes to nothing.

    Raises:
        AssertionError: It does not.
    """
    with evaluating(model), torch.no_grad():
        case = Case.of(model, tokens)
        if isinstance(model, Transformer):
            edited, expected_BTV = case.with_other_filling(), case.logits(case.tokens)
            compare("padding", edited.logits(case.tokens), expected_BTV, tolerance)
            return
        length = case.tokens.shape[1]
        for shorter in range(1, length):
            lengths_B = torch.full_like(case.tokens[:, 0], shorter)
            lengths_B[0] = length
            found_BTV = model(case.tokens, lengths=lengths_B)
            alone_BTV = model(case.tokens[:, :shorter])
            compare("padding", found_BTV[1:, :shorter], alone_BTV[1:], tolerance)


def check_cache(
    model: GPT | Transformer, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """Tokens read through a cache have the logits that they have without one.

    They are read one by one, in chunks, and with rows that are one token apart.

    Raises:
        AssertionError: They have others.
    """
    with evaluating(model), torch.no_grad():
        case = Case.of(model, tokens)
        tokens, reader = case.tokens, case.reader
        logits_BTV = case.logits(tokens)
        for size in (1, 5):
            cache = case.new_cache()
            starts = range(0, tokens.shape[1], size)
            parts = [reader(tokens[:, start : start + size], cache=cache) for start in starts]
            compare("cache", torch.cat(parts, dim=1), logits_BTV, tolerance)
        for apart in range(1, tokens.shape[1] - 1):
            cache = case.new_cache()
            counts = [apart + row % 2 for row in range(len(tokens))]
            reader(tokens[:, : apart + 1], cache=cache, counts=counts)
            rows, places = torch.arange(len(tokens)), torch.tensor(counts)
            next_BV = reader(tokens[rows, places].unsqueeze(1), cache=cache)[:, 0]
            compare("cache of uneven rows", next_BV, logits_BTV[rows, places], tolerance)


def check_documents(
    model: GPT, *, tokens: Tensor | None = None, tolerance: float | None = None
) -> None:
    """A document that shares a row with others has the logits that it has alone.

    Each row is read as three documents, and then once for each of them with the others edited.

    Raises:
        AssertionError: It has others.
    """
    with evaluating(model), torch.no_grad():
        tokens = Case.of(model, tokens).tokens
        documents, positions = _three_documents(tokens)
        logits_BTV = model(tokens, documents=documents, positions=positions)
        for number in set(documents.flatten().tolist()):
            own = documents == number
            edited = torch.where(own, tokens, (tokens + 1) % model.config.vocab_size)
            moved_BTV = model(edited, documents=documents, positions=positions)
            compare("separation of documents", moved_BTV[own], logits_BTV[own], tolerance)
            for row, in_row in enumerate(own):
                alone_TV = model(tokens[row, in_row].unsqueeze(0))[0]
                packed_TV = logits_BTV[row, in_row]
                compare("documents in a row", packed_TV, alone_TV, tolerance)


def check_loss_split(
    model: GPT | Encoder | Transformer,
    *,
    tokens: Tensor | None = None,
    tolerance: float | None = None,
) -> None:
    """The gradient of a batch's summed loss is the sum of its rows' gradients.

    Raises:
        AssertionError: It is another.
    """
    with evaluating(model):
        case = Case.of(model, tokens)
        parts = torch.stack([_gradient(row) for row in case.rows()])
        compare("loss split", parts.sum(dim=0), _gradient(case), tolerance)


def _gradient(case: Case) -> Tensor:
    """All gradients of the summed loss in one vector."""
    targets = case.tokens.roll(-1, dims=1).flatten()
    loss = F.cross_entropy(case.logits(case.tokens).flatten(0, 1), targets, reduction="sum")
    trained = [parameter for parameter in case.model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trained, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


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
