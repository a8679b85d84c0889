"""Tensors that may be sharded over ranks (`DTensor`), without loading what shards them."""

from collections.abc import Iterable

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of it: a DTensor."""
    return hasattr(tensor, "full_tensor")


def local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's part of each tensor, in the same memory; a tensor that is not sharded itself."""
    return [t.to_local() if is_sharded(t) else t for t in tensors]  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the ranks where it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def own_part(tensor: Tensor, *, like: Tensor) -> Tensor:
    """What this rank keeps of `tensor`, which every rank has whole, if it is sharded as `like`."""
    if not is_sharded(like):
        return tensor
    # Loaded already, by whoever made the shards.
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(like, DTensor)
    mesh = like.device_mesh
    everywhere = DTensor.from_local(tensor, mesh, [Replicate()] * mesh.ndim, run_check=False)
    part: Tensor = everywhere.redistribute(placements=like.placements).to_local()
    return part
