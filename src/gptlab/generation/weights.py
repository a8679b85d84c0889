"""Where weights lie in memory."""

import mmap

import torch
from torch import Tensor, nn

_ALIGNMENT = 64


@torch.inference_mode(False)
@torch.no_grad()
def in_huge_pages(model: nn.Module) -> None:
    """Move the weights of a model on the CPU into one block of memory, in huge pages if possible.

    With small pages the processor looks up an address for every 4 KiB, and begins to fetch ahead
    anew: reading takes up to twice the time. The parameters stay the objects that they are. Where
    the system has no such pages, nothing else is different.
    """
    tensors = weights_of(model)
    sizes = [-(-t.numel() * t.element_size() // _ALIGNMENT) * _ALIGNMENT for t in tensors]
    if not hasattr(mmap, "MADV_HUGEPAGE") or not sum(sizes):
        return
    # Memory that could be shared with other processes is never in huge pages.
    try:
        memory = mmap.mmap(-1, sum(sizes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:
        return
    block = torch.frombuffer(memory, dtype=torch.uint8)
    start = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        used = tensor.numel() * tensor.element_size()
        place = block[start : start + used].view(tensor.dtype).view(tensor.shape)
        tensor.data = place.copy_(tensor.data)
        start += size


def weights_of(model: nn.Module) -> list[Tensor]:
    """All that a model keeps in memory, what is shared once."""
    return [*model.parameters(), *model.buffers()]
