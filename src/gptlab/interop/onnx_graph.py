"""The forward pass of a model as a graph of ONNX, which ONNX Runtime and others compute.

`tokens` (batch, length) int64 to `logits` (batch, length, vocabulary) float32; both sizes are free,
up to the model's seq_len. There is no cache: a token more is a row anew.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from gptlab.interop.packages import package
from gptlab.interop.parity import Logits
from gptlab.interop.quiet import quiet
from gptlab.model import GPT

LARGEST_FILE = 2 * 10**9
"""Bytes of weights that fit into the graph's file; more are in a file of their own beside it."""
_USE = "an ONNX graph"
# A size of 1 would be taken for a fixed one.
_EXAMPLE_BATCH, _EXAMPLE_LENGTH = 2, 3


class _Forward(nn.Module):
    """A model that takes tokens and nothing else."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.model(tokens)
        return logits


def write_onnx(path: Path, model: GPT) -> None:
    """Write the forward pass of `model` as a graph, with its weights.

    Args:
        path: The file; weights of more than `LARGEST_FILE` bytes go into `PATH.data`.
        model: In evaluation mode and float32, on the CPU. Its attention backend becomes the
            reference, which is nothing but products and a softmax.

    Raises:
        ExportError: A package is not installed.
        OSError: It can't be written.
    """
    # The last one reads the graph back; without it, nothing need be done.
    for name in ("onnx", "onnxscript", "onnxruntime"):
        package(name, extra="onnx", use=_USE)
    model.use_attention("reference")
    # A window is in the graph only if the row that is followed is longer.
    length = min(max(_EXAMPLE_LENGTH, (model.config.window or 0) + 1), model.config.seq_len)
    example = torch.zeros(_EXAMPLE_BATCH, length, dtype=torch.int64)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            _Forward(model).eval(),
            (example,),
            dynamo=True,
            input_names=["tokens"],
            output_names=["logits"],
            dynamic_shapes={"tokens": {0: "batch", 1: "length"}},
            verbose=False,
        )
        assert program is not None
        program.save(path, external_data=size > LARGEST_FILE)


def read_onnx(path: Path) -> Logits:
    """What ONNX Runtime computes of a graph that `write_onnx` wrote.

    Raises:
        ExportError: ONNX Runtime is not installed.
    """
    runtime = package("onnxruntime", extra="onnx", use=_USE)
    with quiet():
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def logits(tokens: Tensor) -> Tensor:
        (found,) = session.run(["logits"], {"tokens": tokens.numpy()})
        return torch.from_numpy(found)

    return logits
