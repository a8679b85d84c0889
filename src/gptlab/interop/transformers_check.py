"""What transformers makes of a folder that was written for it, where it is installed."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from gptlab.errors import ExportError
from gptlab.interop.parity import Logits
from gptlab.interop.quiet import quiet
from gptlab.tokenizer import Tokenizer

NAME = "transformers"
_SAMPLES = (
    "The cat sat on the mat.",
    "  two  spaces,\ttabs\n\n and lines \r\n",
    "It's 1234567 o'clock, don't we'LL?",
    "Grüße, 世界! naïve ﬁancé \U0001f600",
    "def f(x):\n    return {'a': x ** 2}  # <EOS> </s> <|endoftext|>",
)


def is_installed() -> bool:
    """Whether there is a transformers to ask."""
    return find_spec(NAME) is not None


def read_by_transformers(folder: Path, *, runs_module: bool) -> Logits:
    """What transformers computes of a folder, in float32.

    Args:
        folder: Written a moment ago.
        runs_module: Whether it runs the module in the folder, which is gptlab's own.

    Raises:
        ExportError: It can't read the folder.
    """
    with quiet():
        from transformers import AutoModelForCausalLM

        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=runs_module, local_files_only=True
            ).eval()
        except Exception as error:
            # Whatever is wrong with a model, it may raise anything.
            problem = _in_a_line(error)
            raise ExportError(
                f"transformers can't read what was written ({problem}); nothing was kept"
            ) from error

    def logits(tokens: Tensor) -> Tensor:
        with quiet():
            found: Tensor = model(tokens).logits
        return found

    return logits


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> str | None:
    """Hold the ids of some texts against those of transformers; why that can't be done, if so.

    Raises:
        ExportError: They are others.
    """
    with quiet():
        from transformers import AutoTokenizer

        try:
            theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            # Whatever is wrong with a tokenizer, it may raise anything.
            return f"transformers can't read the tokenizer: {_in_a_line(error)}"
    for text in _SAMPLES:
        found = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        expected = tokenizer.encode(text)
        if found != expected:
            raise ExportError(
                f"the tokenizer of transformers gives other ids for {text!r} than the model's; "
                "nothing was kept"
            )
    return None


def _in_a_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
