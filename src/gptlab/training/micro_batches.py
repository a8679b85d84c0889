"""A batch computed in parts, one after another, where it does not fit into memory at once."""

from bisect import bisect_left
from collections.abc import Callable
from itertools import pairwise

import torch

from gptlab.config import TrainConfig
from gptlab.errors import ConfigError, TrainingError
from gptlab.training.loader import DeviceBatch
from gptlab.training.memory import available_memory, peak_memory, restart_peak
from gptlab.training.ranks import Ranks

# Memory left alone: other programs live on a CPU's, and a GPU's breaks into pieces.
_CPU_SHARE, _GPU_SHARE = 0.8, 0.9
# Growth from one probe to the next that is no longer a matter of chance, as few bytes are.
_CLEAR = 64 * 2**20


def split(batch: DeviceBatch, parts: int) -> list[DeviceBatch]:
    """The rows of `batch` in order, in `parts` parts whose sizes differ by one at most.

    No part is empty: there are as many as rows, if those are fewer.
    """
    rows = len(batch.inputs)
    parts = min(parts, rows)
    borders = [rows * index // parts for index in range(parts + 1)]
    return [
        batch.each(lambda tensor, rows=slice(start, end): tensor[rows])  # type: ignore[misc]
        for start, end in pairwise(borders)
    ]


def choose_parts(
    config: TrainConfig,
    rows: int,
    *,
    fewest: int,
    try_out: Callable[[int], object],
    ranks: Ranks,
    device: torch.device,
    say: Callable[[str], None],
    reserve: int = 0,
) -> int:
    """In how many parts each process computes its rows of a batch; the same number in all.

    It is as the settings say, or for `auto` the smallest whose parts fit into memory. One GPU
    finds that out by trying. On a CPU running out of memory would be the end of the process, and
    of several GPUs one that runs out would leave the others waiting; there the memory of a few
    rows is measured, and what more rows take follows from it.

    Args:
        config: With `gradient_accumulation_steps`, `micro_batch_size` or neither.
        rows: Those of the process that has most.
        fewest: Those of the process that has fewest, at the same time.
        try_out: Runs forward and backward on that many rows, and leaves no gradient behind, not
            even where it fails.
        ranks: The processes, which try at the same time.
        device: Where they compute.
        say: Told in a line what `auto` chose.
        reserve: Bytes that a run takes in addition later: the optimizer's state, and gradients
            kept from one part to the next.

    Raises:
        ConfigError: There are more parts than rows, or `auto` can't know about memory here.
        TrainingError: Not one row fits into a GPU's memory.
    """
    if (steps := config.gradient_accumulation_steps) is not None:
        return _checked(steps, fewest, f"gradient_accumulation_steps is {steps}", config, ranks)
    size = config.micro_batch_size
    if size is None:
        return 1
    if not isinstance(size, int):
        if device.type == "cuda" and ranks.size == 1:
            size = _largest_tried(rows, try_out, device=device, reserve=reserve)
        else:
            size = _largest_measured(rows, try_out, ranks=ranks, device=device, reserve=reserve)
        parts = -(-rows // size)
        say(f"micro-batches of {size} window(s) fit into memory, {parts} for a step")
        what = f"micro_batch_size is 'auto', and {size} window(s) fit into memory"
        return _checked(parts, fewest, what, config, ranks)
    return _checked(-(-rows // size), fewest, f"micro_batch_size is {size}", config, ranks)


def _checked(parts: int, fewest: int, what: str, config: TrainConfig, ranks: Ranks) -> int:
    if parts <= fewest:
        return parts
    share = f", {fewest} for some of {ranks.size} processes" if ranks.size > 1 else ""
    name = "batch_size" if config.batch_tokens is None else "batch_tokens"
    raise ConfigError(
        f"{what}, which makes {parts} parts of {name} {getattr(config, name)}{share}; write a "
        f"larger --{name}, or --gradient_accumulation_steps {fewest}"
    )


def _largest_tried(
    rows: int, try_out: Callable[[int], object], *, device: torch.device, reserve: int
) -> int:
    """The most rows of a part with which a GPU does not run out of memory."""
    total = torch.cuda.mem_get_info(device)[1]
    held = reserve + total - int(_GPU_SHARE * total)

    def fits(size: int) -> bool:
        try:
            later = torch.empty(held, dtype=torch.uint8, device=device)
            try_out(size)
            del later
        except torch.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True

    if fits(rows):
        return rows
    # Sizes in between would make no fewer parts.
    sizes = sorted({-(-rows // parts) for parts in range(2, rows + 1)})
    number = bisect_left(sizes, True, key=lambda size: not fits(size))
    if number == 0:
        raise TrainingError(
            "not one window fits into memory; write --activation_checkpointing, or a smaller "
            "--seq_len, --embed_dim or --num_layers"
        )
    return sizes[number - 1]


def _largest_measured(
    rows: int,
    try_out: Callable[[int], object],
    *,
    ranks: Ranks,
    device: torch.device,
    reserve: int,
) -> int:
    """The most rows of a part whose memory, as far as a few rows tell, is there."""
    on_gpu = device.type == "cuda"
    try:
        peak = restart_peak(device)
        free = available_memory(device)
    except OSError:
        raise ConfigError(
            "micro_batch_size is 'auto', but this system does not tell how much memory is free; "
            "write a number"
        ) from None
    # On a CPU the processes may all share one machine.
    share = _GPU_SHARE if on_gpu else _CPU_SHARE / ranks.size
    limit = peak + share * free - reserve
    size, step = 0, 1
    while True:
        size, former = size + step, peak
        restart_peak(device)
        try_out(size)
        peak = peak_memory(device)
        growth = max(peak - former, 1)
        more = int((limit - peak) * step / growth)
        step = min(size, rows - size)
        # The first row brings the gradients with it, whose size is that of the model.
        is_known = (growth >= _CLEAR and size > 1) or step == 0 or more < step
        if ranks.min(int(not is_known)) == 0:
            break
    return ranks.min(max(1, min(rows, size + more)))
