"""The tokens that rows get from the logits of one step.

Letters: B rows, V vocabulary.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from gptlab.errors import GptlabError
from gptlab.generation.rows import Row, Token
from gptlab.generation.sampling import choose


def choose_tokens(rows: Sequence[Row], logits_BV: Tensor) -> list[int]:
    """An id for each row, within its constraint; -1 for one that gets an error."""
    ids = _choose_allowed(rows, logits_BV, [row.uniform() for row in rows])
    for place, row in enumerate(rows):
        if row.error is not None or row.constraint is None:
            continue
        left_1V = logits_BV[place : place + 1]
        while row.error is None and not row.constraint.permits(ids[place]):
            # Drawing again without what was refused is drawing from what is permitted.
            left_1V = left_1V.index_fill(
                1, torch.tensor([ids[place]], device=left_1V.device), -math.inf
            )
            ids[place] = _choose_allowed([row], left_1V, [row.uniform()])[0]
    return ids


def _choose_allowed(rows: Sequence[Row], logits_BV: Tensor, uniforms: Sequence[float]) -> list[int]:
    """An id for each row, among those that its constraint knows to be allowed."""
    config, allowed_BV = rows[0].config, None
    try:
        if any(row.constraint for row in rows):
            everything_V = torch.ones(logits_BV.shape[1], dtype=torch.bool)
            allowed_BV = torch.stack(
                [row.constraint.allowed() if row.constraint else everything_V for row in rows]
            )
        return choose(
            logits_BV,
            config,
            torch.tensor(uniforms, dtype=torch.float64),
            contexts=[row.text_ids for row in rows],
            new=[row.new for row in rows],
            banned=rows[0].banned,
            allowed_BV=allowed_BV,
            unknown_V=rows[0].unknown_V,
        ).tolist()
    except GptlabError as error:
        if len(rows) == 1:
            rows[0].error = error
            return [-1]
    # Whichever of them it is, the others go on.
    return [
        _choose_allowed([row], logits_BV[place : place + 1], [uniforms[place]])[0]
        for place, row in enumerate(rows)
    ]


def report_tokens(row: Row, logits_BV: Tensor, ids: Sequence[int]) -> list[Token]:
    """Tokens that were drawn, with the log-probabilities that `row` and those like it ask for.

    Those are of the model, which may give something to ids that the tokenizer does not have; these
    are not among the likeliest.
    """
    if row.config.top_logprobs is None:
        return [Token(token) for token in ids]
    logprobs_BV = logits_BV.log_softmax(dim=-1)
    known_BV = logprobs_BV
    if row.unknown_V is not None:
        known_BV = logprobs_BV.masked_fill(row.unknown_V.to(logprobs_BV.device), -math.inf)
    likeliest = known_BV.topk(min(row.config.top_logprobs, logits_BV.shape[1]), dim=-1)
    ids_B1 = torch.tensor(ids, device=logits_BV.device).clamp(min=0).unsqueeze(1)
    own = logprobs_BV.gather(1, ids_B1).squeeze(1).tolist()
    pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    return [
        Token(token, logprob, tuple(_known(row, zip(*pair, strict=True))))
        for token, logprob, pair in zip(ids, own, pairs, strict=True)
    ]


def _known(row: Row, likeliest: Iterable[tuple[int, float]]) -> Iterable[tuple[int, float]]:
    """What is left where more tokens were asked for than the tokenizer has."""
    if row.unknown_V is None:
        return likeliest
    return (pair for pair in likeliest if pair[1] > -math.inf)
