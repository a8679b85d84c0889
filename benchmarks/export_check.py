"""Export models of every family, and hold what others compute against gptlab.

    python benchmarks/export_check.py --llama_cpp FOLDER --text FILE [--models 3]

FOLDER holds llama-completion and llama-tokenize of llama.cpp. There are models with random weights,
so large that each token depends on those before it, some of each architecture; and of two
arrangements one each that was trained for 100 steps on the text. Each is exported for transformers,
llama.cpp and, the first of each arrangement, ONNX Runtime. Told are the largest differences of
logits as exporting finds them, how many greedy tokens are the same in llama.cpp, whose cache holds
32 bits here, and how many texts have the same ids there. A text that goes another way somewhere
counts up to there. Writes results/export_check.json.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measure import available_cores, machine
from report import publish

import gptlab
from gptlab.config import ModelConfig
from gptlab.interop.export import export
from gptlab.model import GPT
from gptlab.tokenizer import Tokenizer, load_tokenizer

SEQ_LEN, NEW_TOKENS = 64, 32
BASE: dict[str, Any] = {"seq_len": SEQ_LEN, "embed_dim": 64, "num_layers": 2, "n_heads": 4}
LLAMA = {"norm": "rmsnorm", "activation": "swiglu", "qk_norm": False}
STRETCH = {"rope_factor": 4, "rope_original_len": 16}
CLASSIC = {"activation": "gelu_tanh", "qk_norm": False, "bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "Llama": LLAMA,
    "Llama, grouped, tied, wide heads": {
        **LLAMA,
        **{"n_kv_heads": 2, "tie_embeddings": True, "head_width": 32},
    },
    "Llama, rope linear": {**LLAMA, "rope_scaling": "linear", "rope_factor": 4},
    "Llama, rope llama3": {**LLAMA, **STRETCH, "rope_scaling": "llama3"},
    "Llama, rope yarn": {**LLAMA, **STRETCH, "rope_scaling": "yarn"},
    "Qwen2": {**LLAMA, "qkv_bias": True, "n_kv_heads": 2},
    "Qwen3": {**LLAMA, "qk_norm": True, "n_kv_heads": 1, "head_width": 24},
    "GPT-2": {**CLASSIC, "positions": "learned", "tie_embeddings": True},
    "GPT-2, no biases": {**CLASSIC, "positions": "learned", "bias": False},
    "GPT-NeoX, parallel, partly turning": {
        **CLASSIC,
        **{"parallel_residual": True, "rotary_share": 0.25},
    },
    "GPT-NeoX, one after the other": CLASSIC,
}
# What is behind a text; without it, the program has ended before all was printed.
PRINTED = b"\n\n"
TRIES = 20
TRAINED = ("Llama", "GPT-2")
PROMPTS = ("The king ", "O Romeo, ", "What shall we do with this")
TEXTS = (
    "Hello world, this is a text.",
    "  two  spaces,\ttabs\n\n and lines \r\n",
    "It's 1234567 o'clock, don't we'LL? I'M 'Sam",
    "Grüße, 世界! naïve ﬁancé \U0001f600",
    "def f(x):\n    return {'a': x ** 2}",
    "١٢٣٤٥ ²³½ ⅫⅣ\u00a0\u2003x\u200b e\u0301 क्षि ไทย 한국어",
    "<EOS> </s> text\ufeff!!!...\n\n--\n",
)


class LlamaCpp:
    """Programs of llama.cpp, and a file that they read."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model

    def continuation(self, prompt: str) -> bytes:
        """The likeliest tokens after `prompt`, which stands for itself, special ones by name."""
        flags = f"-n {NEW_TOKENS} --temp 0 -no-cnv --no-display-prompt --special --ignore-eos"
        cache = "-ctk f32 -ctv f32 -fa off --no-warmup -t 1"
        for _ in range(TRIES):
            found = self._run("llama-completion", prompt, [*flags.split(), *cache.split()])
            if found.endswith(PRINTED):
                return found
        raise RuntimeError(f"llama-completion printed no whole text in {TRIES} tries")

    def ids(self, text: str) -> list[int]:
        """The ids of `text`, all of it plain."""
        flags = "--ids --no-bos --no-parse-special --log-disable"
        found: list[int] = json.loads(self._run("llama-tokenize", text, flags.split()))
        return found

    def _run(self, program: str, text: str, flags: list[str]) -> bytes:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(text.encode())
            command = [self.folder / program, "-m", self.model, "-f", file.name, "--no-escape"]
            run = subprocess.run([*command, *flags], capture_output=True)
        if run.returncode:
            raise RuntimeError(f"{program} failed: {run.stderr.decode()[-300:]}")
        return run.stdout


@dataclass
class Counts:
    """What was compared of models of one arrangement."""

    models: int = 0
    architecture: str = ""
    differences: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    same_tokens: int = 0
    lead: float | None = None
    """By how much gptlab's token was ahead of the next one, at most, where llama.cpp took another;
    in units of the largest logit."""
    texts: int = 0
    same_texts: int = 0

    def add_difference(self, name: str, difference: float) -> None:
        """Keep the largest one."""
        self.differences[name] = max(self.differences.get(name, 0.0), difference)


@torch.no_grad()
def greedy(model: GPT, tokenizer: Tokenizer, prompt: str) -> Iterator[tuple[int, float]]:
    """The likeliest new ids, and how far ahead each was of the next; ends are ruled out.

    Each is found by reading all from the start.
    """
    ids = tokenizer.encode(prompt)
    ends = [i for i in (tokenizer.eos_id, tokenizer.pad_id) if i is not None]
    for _ in range(NEW_TOKENS):
        logits = model(torch.tensor([ids]))[0, -1]
        scale = logits.abs().max()
        logits[ends] = -torch.inf
        first, second = logits.topk(2).values
        ids.append(int(logits.argmax()))
        yield ids[-1], ((first - second) / scale).item()


def compare_texts(counts: Counts, program: LlamaCpp, model: GPT, tokenizer: Tokenizer) -> None:
    """Count greedy tokens and tokenised texts that are the same."""
    for prompt in PROMPTS:
        found, text = program.continuation(prompt), b""
        counts.tokens += NEW_TOKENS
        for token_id, lead in greedy(model, tokenizer, prompt):
            # A zero ends a text there, and is not printed.
            text += tokenizer.token_bytes(token_id).replace(b"\0", b"")
            if not found.startswith(text):
                # All that comes after it is another text.
                counts.lead = max(counts.lead or 0.0, lead)
                break
            counts.same_tokens += 1
    for text in TEXTS:
        counts.texts += 1
        counts.same_texts += program.ids(text) == tokenizer.encode(text)


def check(
    counts: Counts, model: GPT, tokenizer: Tokenizer, *, programs: Path, has_onnx: bool
) -> None:
    """Export a model in every format, and compare."""
    counts.models += 1
    with tempfile.TemporaryDirectory() as folder:
        for format in ("hf", "gguf", *(["onnx"] if has_onnx else [])):
            exported = export(model, tokenizer, Path(folder, format), format=format)
            for parity in exported.parities:
                name = "GGUF, read back" if format == "gguf" else parity.reader
                share = parity.largest_difference / parity.largest_logit
                counts.add_difference(name, share)
            if format == "gguf":
                counts.architecture = exported.architecture
        program = LlamaCpp(programs, Path(folder, "gguf", "model.gguf"))
        compare_texts(counts, program, model, tokenizer)


def random_models(shape: dict[str, Any], vocab_size: int, number: int) -> Iterator[GPT]:
    """Models of one arrangement with weights that matter."""
    for seed in range(number):
        model = GPT(ModelConfig(vocab_size=vocab_size, **{**BASE, **shape}), seed=seed).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        yield model


def trained_model(text: Path, tokenizer: Path, shape: dict[str, Any], folder: Path) -> GPT:
    """A model after 100 steps."""
    result = gptlab.train(
        gptlab.TrainConfig(
            train_data=str(text),
            tokenizer=str(tokenizer),
            runs_dir=str(folder),
            max_steps=100,
            batch_size=16,
            learning_rate=3e-3,
            device="cpu",
            compile="off",
            quiet=True,
            **{**BASE, **shape},
        )
    )
    return gptlab.load(result.path)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--llama_cpp", type=Path, required=True)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--text", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "tokenizer")
        gptlab.train_bpe([str(options.text)], vocab_size=512).save(place)
        tokenizer = load_tokenizer(place)
        for name, shape in SHAPES.items():
            results[name] = Counts()
            models = random_models(shape, tokenizer.vocab_size, options.models)
            for number, model in enumerate(models):
                programs, has_onnx = options.llama_cpp, number == 0
                check(results[name], model, tokenizer, programs=programs, has_onnx=has_onnx)
        for name in TRAINED:
            model = trained_model(options.text, place, SHAPES[name], Path(folder, "runs"))
            counts = results[f"{name}, trained"] = Counts()
            check(counts, model, tokenizer, programs=options.llama_cpp, has_onnx=True)
    packages = ["torch", "transformers", "onnxruntime", "gguf"]
    publish(
        "export_check",
        {
            "benchmark": "export_check",
            "machine": machine(packages, cores=available_cores()),
            "results": {name: vars(counts) for name, counts in results.items()},
        },
    )


if __name__ == "__main__":
    main()
