"""A preparation killed with SIGKILL, again and again, comes to the very same files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptlab.data import TokenDataset

SCRIPT = """
import sys
from gptlab import BPETokenizer, PrepareConfig, prepare
from gptlab.data.preparation import journal

journal._SECONDS_BETWEEN = 0.0
source, output, processes = sys.argv[1:]
prepare(
    PrepareConfig(
        sources=[source],
        output=output,
        processes=int(processes),
        dev_size=0.2,
        drop_duplicates=True,
        min_characters=30,
        shard_tokens=30_000,
        control_tokens=["cat"],
        quiet=True,
    ),
    tokenizer=BPETokenizer(
        [(b"t", b"h"), (b"th", b"e")], special_tokens=("<PAD>", "<EOS>", "<cat>")
    ),
)
"""


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def start(source: Path, output: Path, *, processes: int) -> "subprocess.Popen[bytes]":
    arguments = [str(source), str(output), str(processes)]
    # Not a pipe: waiting for its end would be waiting for the workers that outlive a kill.
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments])


def read_documents(output: Path) -> int:
    """How many documents the journal has, or 0 where there is none."""
    journal = output.with_name(f"{output.name}.unfinished") / "work" / "journal.json"
    try:
        return int(json.loads(journal.read_text())["state"]["counts"]["documents"])
    except (OSError, ValueError):
        return 0


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_random_it_ends_in_the_same_bytes(tmp_path):
    draw = random.Random()
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        rows = [
            " ".join(draw.choice(["the", "then", "cat", "é"]) for _ in range(draw.randint(1, 150)))
            for _ in range(60)
        ]
        lines = (json.dumps({"text": text}) + "\n" for text in rows)
        (source / f"{number:02d}.jsonl").write_text("".join(lines))
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    assert start(source, straight, processes=1).wait(timeout=60) == 0
    kills, seen = 0, 0
    while not cut.exists():
        process = start(source, cut, processes=draw.choice([1, 2]))
        target = seen + draw.randint(50, 250)
        while process.poll() is None and read_documents(cut) < target:
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        assert process.wait(timeout=60) in (0, -signal.SIGKILL)
        # What is in the journal is never read again.
        assert cut.exists() or read_documents(cut) >= seen
        seen = read_documents(cut)
    assert kills >= 2
    assert tree(cut) == tree(straight)
    assert len(TokenDataset(cut).manifest["shards"]) > 2
