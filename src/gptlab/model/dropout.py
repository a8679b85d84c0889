"""Dropout with few random bits: on a CPU, drawing them is most of what it costs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A number of 64 random bits serves four values, each of which is dropped by 16 of them.
_LEVELS, _VALUES_A_DRAW = 1 << 16, 4


def dropout(x: Tensor, share: float) -> Tensor:
    """`x` with a `share` of its numbers dropped and the others scaled up to make up for it.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html.
    """
    if not share:
        return x
    return x * dropout_factors(x, share) if _is_drawn_here(x) else F.dropout(x, share)


def dropout_factors(like: Tensor, share: float) -> Tensor:
    """What dropout multiplies with, shaped and typed as `like`: 0 for a `share`, else more than 1.

    On a CPU the share is a multiple of 2^-16, and the factor is made for it, so that the mean is 1.
    """
    if not _is_drawn_here(like):
        # Not bernoulli_, which compiled on a CPU fills its tensor after it has been read.
        return F.dropout(torch.ones_like(like), share)
    dropped = min(round(share * _LEVELS), _LEVELS - 1)
    draws = torch.empty(-(-like.numel() // _VALUES_A_DRAW), dtype=torch.int64).random_(
        -(2**63), None
    )
    levels = draws.view(torch.int16)[: like.numel()].view(like.shape)
    kept = levels >= dropped - _LEVELS // 2
    return kept.to(like.dtype).mul_(_LEVELS / (_LEVELS - dropped))


def _is_drawn_here(x: Tensor) -> bool:
    """Whether it pays: a GPU draws in its kernel, and a compiler makes such kernels for a CPU."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


class Dropout(nn.Dropout):
    """A layer of `dropout`, while training."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return dropout(x, self.p) if self.training else x
