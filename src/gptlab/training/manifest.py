"""What made a run: its settings, its data, and where and by what command each part of it ran.

manifest.json
  config      the settings as resolved, those of the newest session
  data        name: digest of the tokens read
  tokenizer   its digest
  sessions    one for the start, and one for each time that the run went on
"""

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gptlab
from gptlab.config import TrainConfig
from gptlab.training.files import replace_text
from gptlab.training.machine import processor
from gptlab.training.run_settings import lasting

FILE = "manifest.json"
# A working directory on a slow disk is no reason to wait for long.
_GIT_SECONDS = 5


def write_manifest(
    folder: Path,
    *,
    config: TrainConfig,
    data: Mapping[str, str],
    tokenizer: str,
    device: str,
    world_size: int = 1,
    after_step: int = 0,
) -> None:
    """Write `manifest.json` of the run in `folder`; one that is there gets a further session.

    Args:
        folder: The run.
        config: Its settings, resolved.
        data: Digest of what is read, by name.
        tokenizer: Digest of the tokenizer.
        device: Name of the device.
        world_size: Number of processes that train together.
        after_step: The step after which this session begins.
    """
    settings = lasting(config)
    former = read_manifest(folder)
    session = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "after_step": after_step,
        "changed": _changes(former["config"], settings) if former else {},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "world_size": world_size,
        "device": device,
        **_environment(),
    }
    manifest = {
        "config": settings,
        "data": dict(data),
        "tokenizer": tokenizer,
        "sessions": [*(former["sessions"] if former else []), session],
    }
    replace_text(folder / FILE, json.dumps(manifest, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the run in `folder`; None where there is none that can be read."""
    try:
        manifest = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(manifest, dict) and {"config", "sessions"} <= manifest.keys()
    return manifest if is_ours else None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and branch that `folder` is on; `dirty` says whether a file git knows was changed.

    None outside of a repository, and without git.
    """
    command = ["git", "-C", str(folder), "--no-optional-locks", "status"]
    command += ["--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        run = subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True, timeout=_GIT_SECONDS
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    # A commit or a branch that is not there is called "(initial)" or "(detached)".
    named = dict(re.findall(r"^# branch\.(oid|head) ([^(].*)$", run.stdout, re.MULTILINE))
    return {
        "commit": named.get("oid"),
        "branch": named.get("head"),
        "dirty": re.search(r"^[^#]", run.stdout, re.MULTILINE) is not None,
    }


def _changes(former: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """What the settings were and are, by name, where that differs."""
    return {
        name: [former.get(name), value] for name, value in now.items() if former.get(name) != value
    }


def _environment() -> dict[str, Any]:
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "gptlab": gptlab.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numpy": np.__version__,
        "working_directory": str(Path.cwd()),
        "git": git_state(Path.cwd()),
    }
