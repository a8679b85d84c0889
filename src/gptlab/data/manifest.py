"""The manifest of a dataset: what it says of the files, and whether it is whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from gptlab.config.preparation import WindowConfig
from gptlab.data.shard_files import VERSION
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer.chat import ChatTemplate

MANIFEST = "manifest.json"
FORMAT = "gptlab-tokens"
DEV = "dev"
DTYPES: dict[str, np.dtype[Any]] = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest of the dataset in `folder` says.

    Raises:
        DataError: It is missing, damaged, or of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}; prepare the data again") from None
    except ValueError:
        raise DataError(f"{path} is damaged; prepare the data again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a gptlab dataset; give its folder or text")
    if manifest.get("version", VERSION) != VERSION:
        raise DataError(
            f"{path} has version {manifest['version']}, but this gptlab reads version {VERSION}; "
            "prepare the data again"
        )
    if not _is_complete(manifest):
        raise DataError(f"{path} is damaged; prepare the data again")
    return manifest


def _is_complete(manifest: dict[str, Any]) -> bool:
    try:
        shards, ends = manifest["shards"], manifest["document_ends"]
        files = files_of(manifest)
        texts = [manifest["tokenizer"], *(file["file"] for file in files)]
        counts = [manifest[key] for key in ("tokens", "documents", "bytes", "characters")]
        counts += [manifest["vocab_size"], ends["count"], *(shard["tokens"] for shard in shards)]
        digests = [bytes.fromhex(file["sha256"]) for file in files]
        windows = WindowConfig(**manifest.get("windows", {}))
        return (
            manifest["version"] == VERSION
            and manifest["dtype"] in DTYPES
            and _is_pad_id(manifest.get("pad_id"), manifest["vocab_size"])
            and _is_held_out(manifest.get("held_out"), windows)
            and _is_chat(manifest, windows)
            and all(isinstance(text, str) for text in texts)
            and all(type(count) is int and count >= 0 for count in counts)
            and all(len(digest) == 32 for digest in digests)
            and manifest["tokens"] == sum(shard["tokens"] for shard in shards)
            and manifest["documents"] == ends["count"]
        )
    except (AttributeError, KeyError, TypeError, ValueError, ConfigError):
        return False


def _is_pad_id(value: Any, vocab_size: int) -> bool:
    return value is None or (type(value) is int and 0 <= value < vocab_size)


def _is_held_out(value: Any, windows: WindowConfig) -> bool:
    if value is None:
        return True
    return (
        windows.mode == "segment"
        and value.keys() == {"share", "seed", "part"}
        and type(value["share"]) in (int, float)
        and 0 <= value["share"] < 1
        and type(value["seed"]) is int
        and value["seed"] >= 0
        and value["part"] in ("train", DEV)
    )


def _is_chat(manifest: dict[str, Any], windows: WindowConfig) -> bool:
    """Whether mode conversations, its template and a mask for each shard come together, or none."""
    has_template = manifest.get("chat_template") is not None
    if has_template:
        ChatTemplate(**manifest["chat_template"])
    masked = {"mask" in shard for shard in manifest["shards"]}
    return (windows.mode == "conversations") == has_template and masked <= {has_template}


def files_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What the manifest says of each file of arrays."""
    shards = manifest["shards"]
    masks = [shard["mask"] for shard in shards if "mask" in shard]
    return [*shards, *masks, manifest["document_ends"]]
