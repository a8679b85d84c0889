"""Rows for classify.toml: pieces of installed packages, each labelled with its package.

    python recipes/classify_rows.py SITE data/classify PACKAGE PACKAGE ...

writes train.jsonl and dev.jsonl. A fifth of the files of each package are for dev, whole files.
Pieces that name their package are left out, for they would say the label.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

FILES = 300
"""Files of a package at most, drawn at random."""
PIECES = 4
"""Pieces of a file at most."""
LINES = 10
"""Lines of a piece."""


def write_rows(site: Path, output: Path, packages: list[str]) -> None:
    """Write the rows of packages in `site` into `output`, and say how many they are."""
    draw = random.Random(0)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "dev": []}
    for package in packages:
        files = sorted((site / package).rglob("*.py"))
        files = draw.sample(files, min(FILES, len(files)))
        for number, file in enumerate(files):
            part = "dev" if number < len(files) // 5 else "train"
            for piece in pieces(file, draw):
                if package not in piece.lower():
                    rows[part].append({"text": piece, "label": package})
    output.mkdir(parents=True, exist_ok=True)
    for part, of_part in rows.items():
        lines = (json.dumps(row) + "\n" for row in of_part)
        (output / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
        counts = {name: sum(row["label"] == name for row in of_part) for name in packages}
        majority = max(counts.values()) / max(1, len(of_part))
        print(f"{part}: {len(of_part):,} rows, {counts}; the most frequent label is {majority:.1%}")


def pieces(file: Path, draw: random.Random) -> Iterator[str]:
    """Stretches of lines of a file that do not overlap, in random order."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    starts = range(0, len(lines) - LINES + 1, LINES)
    for start in draw.sample(starts, min(PIECES, len(starts))):
        yield "\n".join(lines[start : start + LINES])


if __name__ == "__main__":
    write_rows(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
