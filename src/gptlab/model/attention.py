"""Attention: one function behind which several backends serve.

Letters: B batch, T query length, S key length, D model width, H heads, K head width. Keys and
values may have fewer heads than queries; each is then shared by a group of query heads
(Ainslie et al. 2023, https://arxiv.org/abs/2305.13245).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.errors import BackendError
from gptlab.model.blocked import blocked_attention
from gptlab.model.flash import flash_attention
from gptlab.model.linear import computed, is_compiled

BACKENDS = ("auto", "reference", "sdpa", "blocked", "flash")


def attend(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    *,
    backend: str = "auto",
    causal: bool = True,
    window: int | None = None,
    mask_BTS: Tensor | None = None,
    lengths_B: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017), (B, T, H, K) in the queries' dtype.

    A causal mask is aligned to the last key: query t sees keys up to S - T + t, so new tokens
    after cached ones need no mask of their own. With a `window` it sees only the last so many of
    them (Child et al. 2019, https://arxiv.org/abs/1904.10509). `mask_BTS` is bool, True where a
    query may look; it narrows what the others allow, and every query must see some key. Of rows
    that are filled up at the end, `lengths_B` (int64, at least 1) says how many keys there are.
    `auto` is `blocked` for 16-bit numbers on a CPU, and otherwise `sdpa`, PyTorch's own choice of
    a kernel, which has one for every device.

    Raises:
        BackendError: The named backend can't serve this device, dtype or mask.
    """
    is_plain = mask_BTS is None and lengths_B is None
    if window is not None and causal and q_BTHK.shape[1] == 1 and is_plain:
        # One query sees what there is.
        k_BSHK, v_BSHK, window = k_BSHK[:, -window:], v_BSHK[:, -window:], None
    if backend == "flash" and mask_BTS is None:
        return flash_attention(
            q_BTHK,
            k_BSHK,
            v_BSHK,
            causal=causal,
            window=window,
            lengths_B=lengths_B,
            dropout=dropout,
        )
    if lengths_B is not None:
        mask_BTS = _with_lengths(mask_BTS, lengths_B, q_BTHK, k_BSHK)
    if backend == "auto":
        if q_BTHK.shape[1] == 1 and not dropout and is_compiled():
            return _one_query(q_BTHK, k_BSHK, v_BSHK, mask_BTS)
        backend = usual_backend(q_BTHK.device, q_BTHK.dtype, length=q_BTHK.shape[1])
    if window is not None:
        mask_BTS = _with_window(mask_BTS, window, q_BTHK, k_BSHK)
    if backend == "reference":
        return _reference(q_BTHK, k_BSHK, v_BSHK, causal, mask_BTS, dropout)
    if backend == "sdpa":
        return _sdpa(q_BTHK, k_BSHK, v_BSHK, causal, mask_BTS, dropout)
    if backend == "blocked":
        return blocked_attention(
            q_BTHK, k_BSHK, v_BSHK, causal=causal, mask_BTS=mask_BTS, dropout=dropout
        )
    if backend != "flash":
        raise BackendError(
            f"there is no attention backend '{backend}'; known: {', '.join(BACKENDS)}"
        )
    raise BackendError(
        "attention is 'flash', which takes no mask, but rows of different lengths need one; "
        "write --attention auto"
    )


def usual_backend(device: torch.device, dtype: torch.dtype, *, length: int) -> str:
    """What `auto` means for `length` queries."""
    return "blocked" if device.type == "cpu" and dtype.itemsize == 2 and length > 1 else "sdpa"


def _one_query(q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, mask_BTS: Tensor | None) -> Tensor:
    """One query a row that sees every key, or those of a mask, as sums for a compiler to fuse."""
    B, S, H, K = k_BSHK.shape
    q_BHGK = computed(q_BTHK.reshape(B, H, -1, K).float() / math.sqrt(K))
    scores_BSHG = (k_BSHK.float().unsqueeze(3) * q_BHGK.unsqueeze(1)).sum(dim=-1)
    if mask_BTS is not None:
        scores_BSHG = scores_BSHG.masked_fill(~mask_BTS.view(-1, S, 1, 1), -math.inf)
    weights_BSHG = (scores_BSHG - scores_BSHG.amax(dim=1, keepdim=True)).exp()
    sums_BHGK = (weights_BSHG.unsqueeze(-1) * v_BSHK.float().unsqueeze(3)).sum(dim=1)
    output_BHGK = sums_BHGK / weights_BSHG.sum(dim=1).unsqueeze(-1)
    return output_BHGK.to(v_BSHK.dtype).view(q_BTHK.shape)


def attention_weights(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    mask_BTS: Tensor | None = None,
    lengths_B: Tensor | None = None,
) -> Tensor:
    """How much each query takes of each key, (B, H, T, S); a row of them sums to 1.

    The arguments are those of `attend`, which multiplies these weights with the values.
    """
    if lengths_B is not None:
        mask_BTS = _with_lengths(mask_BTS, lengths_B, q_BTHK, k_BSHK)
    if window is not None:
        mask_BTS = _with_window(mask_BTS, window, q_BTHK, k_BSHK)
    k_BSHK = k_BSHK.repeat_interleave(q_BTHK.shape[2] // k_BSHK.shape[2], dim=2)
    scores_BHTS = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK) / math.sqrt(q_BTHK.shape[3])
    if causal:
        mask_BTS = _with_causal(mask_BTS, q_BTHK.shape[1], k_BSHK.shape[1], q_BTHK.device)
    if mask_BTS is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask_BTS.unsqueeze(1), -math.inf)
    return scores_BHTS.softmax(dim=-1)


def _reference(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    causal: bool,
    mask_BTS: Tensor | None,
    dropout: float,
) -> Tensor:
    v_BSHK = v_BSHK.repeat_interleave(q_BTHK.shape[2] // v_BSHK.shape[2], dim=2)
    weights_BHTS = attention_weights(q_BTHK, k_BSHK, causal=causal, mask_BTS=mask_BTS)
    weights_BHTS = F.dropout(weights_BHTS, dropout).to(v_BSHK.dtype)
    return torch.einsum("bhts,bshk->bthk", weights_BHTS, v_BSHK)


def _sdpa(
    q_BTHK: Tensor,
    k_BSHK: Tensor,
    v_BSHK: Tensor,
    causal: bool,
    mask_BTS: Tensor | None,
    dropout: float,
) -> Tensor:
    length, key_length = q_BTHK.shape[1], k_BSHK.shape[1]
    is_causal = False
    # SDPA aligns its own causal mask to the first key, and one query at the end sees every key.
    if causal and mask_BTS is None and length == key_length:
        is_causal = True
    elif causal and not (mask_BTS is None and length == 1):
        mask_BTS = _with_causal(mask_BTS, length, key_length, q_BTHK.device)
    output_BHTK = F.scaled_dot_product_attention(
        q_BTHK.transpose(1, 2),
        k_BSHK.transpose(1, 2),
        v_BSHK.transpose(1, 2),
        attn_mask=None if mask_BTS is None else mask_BTS.unsqueeze(1),
        dropout_p=dropout,
        is_causal=is_causal,
        enable_gqa=bool(q_BTHK.shape[2] != k_BSHK.shape[2]),
    )
    return output_BHTK.transpose(1, 2)


def _with_causal(mask_BTS: Tensor | None, T: int, S: int, device: torch.device) -> Tensor:
    causal_TS = torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
    return causal_TS.unsqueeze(0) if mask_BTS is None else mask_BTS & causal_TS


def _with_lengths(
    mask_BTS: Tensor | None, lengths_B: Tensor, q_BTHK: Tensor, k_BSHK: Tensor
) -> Tensor:
    T, S = q_BTHK.shape[1], k_BSHK.shape[1]
    places_S = torch.arange(S, device=k_BSHK.device)
    real_BTS = (places_S < lengths_B.view(-1, 1, 1)).expand(-1, T, S)
    return real_BTS if mask_BTS is None else mask_BTS & real_BTS


def _with_window(
    mask_BTS: Tensor | None, window: int, q_BTHK: Tensor, k_BSHK: Tensor
) -> Tensor | None:
    T, S = q_BTHK.shape[1], k_BSHK.shape[1]
    if window >= S:
        return mask_BTS
    near_TS = torch.ones(T, S, dtype=torch.bool, device=q_BTHK.device).triu(S - T - window + 1)
    return near_TS.unsqueeze(0) if mask_BTS is None else mask_BTS & near_TS
