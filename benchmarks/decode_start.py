"""From the start of a command to its first token, of a saved model of about 10M parameters.

gptlab's is `gptlab-generate`; that of Hugging Face transformers is a script that imports, loads and
generates one token from ids, without a tokenizer.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from decode_task import GPT2
from measure import summary
from peers import gpt2_config

import gptlab
from gptlab.config import ModelConfig

COMMAND = str(Path(sys.executable).with_name("gptlab-generate"))
TEXT = Path(__file__).parents[1] / "toy_data" / "tiny_sp_train.txt"
PROMPT = "Once upon a time"
SCRIPT = """
import sys
import torch
from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained(sys.argv[1]).to(sys.argv[2])
ids = torch.tensor([[1, 2, 3, 4]], device=sys.argv[2])
print(model.generate(ids, max_new_tokens=1, do_sample=False, pad_token_id=0)[0, -1].item())
"""


def first_tokens(shape: Mapping[str, int], *, device: str, rounds: int) -> list[dict[str, Any]]:
    """Seconds to the first byte after the prompt; one round more finds the files."""
    with tempfile.TemporaryDirectory() as folder:
        own = save_own(Path(folder, "own"), shape, device)
        commands = {"`gptlab-generate`": (own, PROMPT)}
        if find_spec("transformers"):
            peer = save_peer(Path(folder, "peer"), shape, device)
            commands["transformers, a script"] = (peer, "")
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        failed: dict[str, str] = {}
        for _ in range(rounds + 1):
            for name, (command, prompt) in commands.items():
                try:
                    seconds[name].append(seconds_to_text(command, after=prompt))
                except RuntimeError as error:
                    failed[name] = str(error)
    return [
        {"name": name, "failed": failed[name]}
        if name in failed
        else {"name": name, "seconds": summary(of[1:])}
        for name, of in seconds.items()
    ]


def save_own(folder: Path, shape: Mapping[str, int], device: str) -> Sequence[str]:
    tokenizer = gptlab.train_bpe(TEXT, vocab_size=shape["vocab_size"])
    sizes = {**shape, "vocab_size": tokenizer.vocab_size}
    gptlab.save(folder, gptlab.GPT(ModelConfig(**sizes, **GPT2), seed=0), tokenizer)
    asked = {"model_path": str(folder), "prompt": PROMPT, "device": device, "temperature": "0"}
    flags = [part for name, value in asked.items() for part in (f"--{name}", value)]
    return [COMMAND, *flags]


def save_peer(folder: Path, shape: Mapping[str, int], device: str) -> Sequence[str]:
    from transformers import GPT2LMHeadModel

    config = gpt2_config(shape, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return [sys.executable, "-c", SCRIPT, str(folder), device]


def seconds_to_text(command: Sequence[str], *, after: str) -> float:
    """Seconds until a command has printed something after a text."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    with process:
        printed = b""
        while len(printed) <= len(after.encode()):
            piece = os.read(process.stdout.fileno(), 1)
            if not piece:
                raise RuntimeError(f"nothing was printed after {printed!r}")
            printed += piece
        seconds = time.perf_counter() - start
        process.kill()
    return seconds
