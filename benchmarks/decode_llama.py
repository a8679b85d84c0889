"""llama.cpp as a contender of decode.py: a GGUF file of random weights, and llama-bench over it.

llama-bench decodes random tokens and picks none. Every matrix, the head included, has the type that
the file is named for; norms, biases and the table of positions are in 32 bits, as llama.cpp's own
converter has them.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Shape = dict[str, int]


def weights(shape: Shape) -> Iterator[tuple[str, np.ndarray]]:
    """Names of GGUF and random values of a GPT-2 with tied embeddings."""
    generator = np.random.default_rng(0)
    width = shape["embed_dim"]

    def matrix(rows: int, columns: int) -> np.ndarray:
        return generator.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

    def norm(name: str) -> Iterator[tuple[str, np.ndarray]]:
        yield f"{name}.weight", np.ones(width, dtype=np.float32)
        yield f"{name}.bias", np.zeros(width, dtype=np.float32)

    yield "token_embd.weight", matrix(shape["vocab_size"], width)
    yield "position_embd.weight", matrix(shape["seq_len"], width)
    yield from norm("output_norm")
    linears = {
        "attn_qkv": (3 * width, width),
        "attn_output": (width, width),
        "ffn_up": (4 * width, width),
        "ffn_down": (width, 4 * width),
    }
    for block in range(shape["num_layers"]):
        yield from norm(f"blk.{block}.attn_norm")
        yield from norm(f"blk.{block}.ffn_norm")
        for name, (rows, columns) in linears.items():
            yield f"blk.{block}.{name}.weight", matrix(rows, columns)
            yield f"blk.{block}.{name}.bias", np.zeros(rows, dtype=np.float32)


def write_gguf(path: Path, shape: Shape, precision: str) -> int:
    """Write a model without a vocabulary; the bytes of it that a token reads.

    Args:
        path: Where to.
        shape: As in gptlab's settings.
        precision: Type of the matrices: f16, bf16, q8_0 or q4_0.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    kind = GGMLQuantizationType[precision.upper()]
    writer = GGUFWriter(path, "gpt2")
    writer.add_context_length(shape["seq_len"])
    writer.add_embedding_length(shape["embed_dim"])
    writer.add_block_count(shape["num_layers"])
    writer.add_feed_forward_length(4 * shape["embed_dim"])
    writer.add_head_count(shape["n_heads"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    bytes_read = 0
    for name, values in weights(shape):
        is_table = name == "position_embd.weight"
        if values.ndim == 1 or is_table:
            writer.add_tensor(name, values)
        else:
            values = quants.quantize(values, kind)
            writer.add_tensor(name, values, raw_dtype=kind)
        bytes_read += 0 if is_table else values.nbytes
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return bytes_read


class LlamaBench:
    """A program that is started for each round, and warms up by itself.

    Args:
        program: Path of llama-bench.
        task: As for decode_task.py.
        folder: Where to write the model.
    """

    def __init__(self, program: str, task: dict[str, Any], folder: Path) -> None:
        file = folder / f"{task['precision']}.gguf"
        bytes_read = write_gguf(file, task["shape"], task["precision"])
        self.ready: dict[str, Any] = {"bytes_read": bytes_read}
        prompt, new = task["prompt_tokens"], task["new_tokens"]
        work = ["-p", prompt, "-n", 0] if new == 1 else ["-p", 0, "-n", new, "-d", prompt]
        command = [program, "-m", file, *work, "-t", task["cores"], "-o", "json"]
        self._command = [str(part) for part in command]

    def calls(self, number: int) -> list[float]:
        """Seconds of each of some calls."""
        command = [*self._command, "-r", str(number)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(f"exit code {run.returncode}: {run.stderr.strip()[-200:]}")
        (found,) = json.loads(run.stdout)
        self.ready["llama_cpp_commit"] = found["build_commit"]
        return [nanoseconds / 1e9 for nanoseconds in found["samples_ns"]]

    def close(self) -> None:
        """Nothing is left running."""
