"""The machine that computes: its name, and what was measured on it before."""

import json
import os
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import gptlab
from gptlab.training.files import replace_text

_FILE = "machine.json"


def processor() -> str:
    """What the processor is called."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    names = re.findall(r"^model name\s*: (.+)", text, re.MULTILINE)
    return names[0] if names else platform.processor() or platform.machine()


def measured(
    what: str, measure: Callable[[], Any], *, is_valid: Callable[[Any], bool] = bool
) -> Any:
    """The result of `measure`, or of an earlier run's on this machine.

    Results live in machine.json in the user's cache folder; one is measured anew for another
    processor, number of threads or version of torch or gptlab.

    Args:
        what: Names the result.
        measure: Gives something that JSON can hold.
        is_valid: Whether an earlier result is one; the file may have been edited.
    """
    result = recalled(what)
    if result is None or not is_valid(result):
        result = measure()
        remember(what, result)
    return result


def recalled(what: str) -> Any:
    """What was kept by that name on this machine; None where nothing was."""
    return _read().get(_key(what))


def remember(what: str, result: Any) -> None:
    """Keep a result for later runs; where it can't be written, they measure again."""
    path = _path()
    if not path.is_absolute():
        # Nobody's home: such a user has nowhere to keep it.
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({**_read(), _key(what): result}, indent=1) + "\n")


def _key(what: str) -> str:
    threads = torch.get_num_threads()
    versions = f"torch {torch.__version__}, gptlab {gptlab.__version__}"
    return f"{what} | {processor()}, {threads} threads, {versions}"


def _read() -> dict[str, Any]:
    try:
        results = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return results if isinstance(results, dict) else {}


def _path() -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(folder), "gptlab", _FILE)  # noqa: PTH111 (it never raises)
