"""A library that generates, or a look at the memory, in a process of its own: see decode.py.

    echo 3 | python benchmarks/decode_task.py '{"library": "gptlab", ...}'

Makes a first call, which may compile, and another; prints what the first took and how many bytes a
token reads. Then, for each number on its standard input, makes that many calls and prints the
seconds of each.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from measure import use_cores
from peers import gpt2_config
from torch import Tensor, nn

# The arrangement of GPT-2, in gptlab's settings.
GPT2 = {
    "positions": "learned",
    "activation": "gelu_tanh",
    "bias": True,
    "qk_norm": False,
    "tie_embeddings": True,
}
_GROUP = 32


@dataclass(frozen=True)
class Work:
    """What every library is to do."""

    shape: dict[str, int]
    precision: str
    device: torch.device
    batch: int
    prompt_tokens: int
    new_tokens: int
    """1 for the logits after the prompt alone."""
    settings: dict[str, Any]
    """What the library is told beside."""

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model is cast to; what has fewer bits is made of it."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    def prompts(self) -> list[list[int]]:
        """Different random ids for each row, the same for every library."""
        size = (self.batch, self.prompt_tokens)
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.shape["vocab_size"], size, generator=generator).tolist()


@dataclass(frozen=True)
class Contender:
    """Something to do again and again, and the bytes it reads from memory: those of the weights."""

    call: Callable[[], object]
    bytes_read: int


class Ids:
    """Stands for a tokenizer where ids are all that comes and goes."""

    eos_id = None


def gptlab(work: Work) -> Contender:
    """A Generator over ids."""
    import gptlab
    from gptlab.config import ModelConfig, SamplingConfig
    from gptlab.model import quantize

    model = gptlab.GPT(ModelConfig(**work.shape, **GPT2), seed=0).to(work.device, work.dtype)
    if work.precision == "int8":
        model = quantize(model, bits=8)
    if work.precision == "int4":
        model = quantize(model, bits=4, group_size=_GROUP)
    generator = gptlab.Generator(model, Ids(), **work.settings)
    config = SamplingConfig(max_new_tokens=work.new_tokens, temperature=0, ignore_eos=True)
    prompts = work.prompts()
    return Contender(
        lambda: generator.generate_ids(prompts, config),
        weight_bytes(model, work.shape["vocab_size"]),
    )


def transformers(work: Work) -> Contender:
    """Hugging Face's `generate`, or its forward pass where one token is asked for."""
    from transformers import GPT2LMHeadModel

    config = gpt2_config(
        work.shape,
        activation_function="gelu_new",
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).to(work.device, work.dtype).eval()
    if "cache_implementation" in work.settings and work.device.type == "cpu":
        # On a GPU, generate does it by itself.
        model.forward = torch.compile(model.forward)
    ids = torch.tensor(work.prompts(), device=work.device)

    @torch.inference_mode()
    def first() -> list[list[float]]:
        return model(ids, use_cache=True, logits_to_keep=1).logits[:, -1].tolist()

    def generate() -> list[list[int]]:
        return model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            use_cache=True,
            max_new_tokens=work.new_tokens,
            min_new_tokens=work.new_tokens,
            **work.settings,
        ).tolist()

    call = first if work.new_tokens == 1 else generate
    return Contender(call, weight_bytes(model, work.shape["vocab_size"]))


def sum_of_numbers(work: Work) -> Contender:
    """One pass of torch.sum over a large tensor."""
    numbers = torch.ones(work.settings["bytes"] // 4, device=work.device)
    return Contender(lambda: numbers.sum().item(), numbers.nbytes)


def row_products(work: Work) -> Contender:
    """Products of large bf16 matrices and a vector, compiled."""
    rows, width = 16384, 4096
    count = max(1, work.settings["bytes"] // (2 * rows * width))
    matrices = torch.ones(count, rows, width, dtype=torch.bfloat16, device=work.device)
    vector = torch.ones(width, device=work.device)

    @torch.compile
    def products(matrix: Tensor) -> Tensor:
        return (matrix.float() * vector).sum(-1)

    def call() -> list[float]:
        return [products(matrix)[0].item() for matrix in matrices]

    return Contender(call, matrices.nbytes)


LIBRARIES = {
    "gptlab": gptlab,
    "transformers": transformers,
    "sum": sum_of_numbers,
    "row products": row_products,
}


def weight_bytes(model: nn.Module, vocab_size: int) -> int:
    """Bytes of all that a model holds, but for tables of which a token takes one row.

    A table of tokens that is the head too, as it is where no other matrix has a row for each
    token, counts.
    """
    tensors = {tensor.data_ptr(): tensor for tensor in chain(model.parameters(), model.buffers())}
    tables = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    for table in tables:
        del tensors[table.data_ptr()]
    has_head = any(t.dim() > 1 and len(t) == vocab_size for t in tensors.values())
    heads = [] if has_head else [table for table in tables if len(table) == vocab_size]
    return sum(tensor.nbytes for tensor in (*tensors.values(), *heads))


def seconds_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    task = json.loads(sys.argv[1])
    use_cores(task.pop("cores"))
    library = LIBRARIES[task.pop("library")]
    contender = library(Work(**{**task, "device": torch.device(task["device"])}))
    first = seconds_of(contender.call)
    contender.call()
    ready = {"first_call_seconds": first, "bytes_read": contender.bytes_read}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        seconds = [seconds_of(contender.call) for _ in range(int(line))]
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
