"""One model on several devices, by torch's own engines.

`ddp`, https://arxiv.org/abs/2006.15704: each process has the whole model, and the gradients are
averaged. `fsdp`, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html: each has a
part of every parameter, of its gradient and of the optimizer's state, and a block's parameters come
together only while it computes.
"""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gptlab.training.dtensors import whole
from gptlab.training.objective import Objective
from gptlab.training.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


def distribute(
    objective: Objective, *, mode: Literal["ddp", "fsdp"], ranks: Ranks, device: torch.device
) -> nn.Module:
    """`objective` on `device`, sharing its work with those of the other ranks; what to call.

    Under `fsdp` the parameters are replaced by DTensors, so optimizers are made afterwards.
    Weights stay float32: autocast decides about products, as on one device.

    Args:
        objective: With the same weights in all ranks.
        mode: How to share, where there are several ranks.
        ranks: The processes of the job.
        device: Where this one computes.
    """
    if ranks.size == 1:
        return objective.to(device)
    if mode == "ddp":
        return _replicated(objective.to(device))
    # Half a second to import, which a run on one device need not spend.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (ranks.size,))
    # Block by block, each is moved to the device whole and leaves a part there.
    for block in objective.model.all_blocks:
        fully_shard(block, mesh=mesh)
        # Generating, a decoder's block computes this apart from the rest.
        register_fsdp_forward_method(block, "remember")
    fully_shard(objective, mesh=mesh)
    return objective


def _replicated(objective: Objective) -> nn.Module:
    with warnings.catch_warnings():
        # Its successor, which torch 2.13 recommends, is not there in 2.9.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
        # Buffers are constants.
        return DistributedDataParallel(
            objective, gradient_as_bucket_view=True, broadcast_buffers=False
        )


@contextmanager
def synchronised(module: nn.Module, *, last: bool) -> Iterator[None]:
    """Forward and backward of one micro-batch; only in the `last` do gradients travel.

    Args:
        module: What `distribute` returned.
        last: Whether this completes the gradients of a step.
    """
    if (sharded := _sharded(module)) is not None:
        sharded.set_requires_gradient_sync(last)
    if isinstance(module, DistributedDataParallel) and not last:
        with module.no_sync():
            yield
    else:
        yield


@contextmanager
def resharded(module: nn.Module) -> Iterator[None]:
    """Within, the model may also be called beside `module`; afterwards it is in parts again.

    For evaluating and generating, in all ranks alike: a model in parts comes together by calls
    that all of them make. Enter it after the weights were changed by hand, and leave it before.

    Args:
        module: What `distribute` returned, after a first forward pass.
    """
    sharded = _sharded(module)
    if sharded is None:
        yield
        return
    sharded.reshard()
    sharded.unshard()
    try:
        yield
    finally:
        # The next forward pass would take what is whole for what is current.
        sharded.reshard()


def _sharded(module: nn.Module) -> "FSDPModule | None":
    """`module` where its parameters are in parts."""
    return cast("FSDPModule", module) if hasattr(module, "unshard") else None


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Euclidean norm of all gradients, those of other ranks' parts included; a float32 scalar."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    return whole(norm)
