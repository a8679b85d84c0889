"""Tensors that may be sharded over ranks (`DTensor`), without loading what shards them."""

from collections.abc import Iterable

from torch import Tensor


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's part of each tensor, in the same memory; a tensor that is not sharded itself."""
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the ranks where it is sharded."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    gathered: Tensor = tensor.full_tensor()
    return gathered


def own_part(tensor: Tensor, *, like: Tensor) -> Tensor:
    """What this rank keeps of `tensor`, which every rank has whole, if it is sharded as `like`."""
    if not hasattr(like, "device_mesh"):
        return tensor
    # Loaded already, by whoever made the shards.
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    everywhere = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    part: Tensor = everywhere.redistribute(placements=like.placements).to_local()
    return part
