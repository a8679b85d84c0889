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


def read_by_transformers(folder: Path) -> Logits:
    """What transformers computes of a folder, in float32.

    A module that comes with the folder is run: it is gptlab's own, written a moment ago.
    """
    with quiet():
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=True, local_files_only=True
        ).eval()

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
            return f"transformers can't read the tokenizer: {str(error).splitlines()[0]}"
    for text in _SAMPLES:
        found = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
        expected = tokenizer.encode(text)
        if found != expected:
            raise ExportError(
                f"the tokenizer of transformers gives other ids for {text!r} than the model's; "
                "nothing was kept"
            )
    return None
