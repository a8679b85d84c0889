"""Models by their names on Hugging Face's hub (https://huggingface.co/models)."""

import re
from pathlib import Path

from gptlab.errors import CheckpointError
from gptlab.interop.stored import has_weights

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE_ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".gguf", ".json", ".txt")
_SETTINGS_AND_TOKENIZER = ("*.json", "merges.txt", "*.model", "*.tiktoken", "*.jinja")
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def is_name(text: str) -> bool:
    """Whether `text` may be a model's name there, as `distilgpt2` or `org/name`, and is no path."""
    is_path = Path(text).exists() or ("/" in text and Path(text).parent.exists())
    is_file = text.lower().endswith(_FILE_ENDINGS)
    return _NAME.fullmatch(text) is not None and ".." not in text and not is_path and not is_file


def download(name: str) -> Path:
    """The folder with the model `name` in the cache of huggingface_hub, downloaded if need be.

    Of the weights, safetensors are preferred; nothing else than model and tokenizer is taken.

    Raises:
        CheckpointError: huggingface_hub is not installed, the hub can't be reached, has no such
            model, or does not give it.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    except ImportError:
        raise CheckpointError(
            'a model by its name on Hugging Face\'s hub needs pip install "gptlab[hf]"'
        ) from None
    try:
        for weights in _WEIGHTS:
            folder = Path(
                snapshot_download(
                    name, allow_patterns=[*_SETTINGS_AND_TOKENIZER, weights], ignore_patterns="*/*"
                )
            )
            if has_weights(folder):
                break
        return folder
    except GatedRepoError:
        problem = f"gives '{name}' to those who agreed to its terms; do so, then hf auth login"
    except RepositoryNotFoundError:
        problem = f"has no '{name}'"
    except LocalEntryNotFoundError:
        problem = f"can't be reached for '{name}'; go online"
    except Exception as error:
        # Its HTTP client may raise anything.
        problem = f"does not give '{name}': {' '.join(str(error).split())[:200]}"
    raise CheckpointError(f"Hugging Face's hub {problem}")
