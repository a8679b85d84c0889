"""What .gitignore files leave out, held against git."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.corpus import open_corpus
from gptlab.errors import DataError

RULES = [
    *("*.py", "!*.py", "!a.py", "!/a.txt", "!**/*.txt", "a.p*", "[ab].py", "?.txt", "a.txt  "),
    *("a", "a/", "/a", "/a/", "b", "c/", "b/*", "*", "/*", "**", "a/**", "**/c", "**/a/b"),
    *("c/**/a.py", "a/*/c", "/b/a.py", "b/a.py", "# x", "\\#x", "", "a.py\r"),
]


def write(path: Path, text: str = "text") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline="")


def found(folder: Path) -> set[str]:
    try:
        corpus = open_corpus(folder, gitignore=True, check=False)
    except DataError:
        return set()
    return {file.relative_to(folder).as_posix() for file in corpus.files}


def kept_by_git(folder: Path) -> set[str]:
    """The files that git does not ignore, whatever the machine's own settings."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    files = [path.relative_to(folder).as_posix() for path in paths]
    files = [file for file in files if "/." not in f"/{file}"]
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "init", "-q", folder], check=True, env=environment)
    ignored = subprocess.run(
        ["git", "-C", folder, "check-ignore", "--no-index", "-z", "--stdin"],
        input="".join(f"{file}\0" for file in files),
        capture_output=True,
        text=True,
        env=environment,
    )
    assert ignored.returncode in (0, 1), ignored.stderr
    return set(files) - set(ignored.stdout.split("\0"))


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize("seed", range(40))
def test_random_rules_leave_out_what_git_ignores(tmp_path, seed):
    rng = random.Random(seed)
    for _ in range(20):
        folder = tmp_path.joinpath(*rng.choices("abc", k=rng.randint(0, 3)))
        name = rng.choice(["a.py", "b.py", "a.txt", "#x"])
        write(folder / name)
        if rng.random() < 0.3:
            write(folder / ".gitignore", "\n".join(rng.choices(RULES, k=rng.randint(1, 4))))
    assert found(tmp_path) == kept_by_git(tmp_path)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(
    "rules",
    [
        {".gitignore": "*\n!*/\n!*.py\n"},
        {".gitignore": "/*\n!/src\n"},
        {".gitignore": "/*\n!/src/\n*.txt\n"},
        {".gitignore": "src/lib/\n!src/lib/a.py\n"},
        {".gitignore": "lib/*\n!lib/a.py\n"},
        {".gitignore": "*.py\n", "src/.gitignore": "!a.py\n", "src/lib/.gitignore": "a.py\n"},
        {"src/.gitignore": "*\n!.gitignore\n"},
        {"src/.gitignore": "/a.py\n"},
        {".gitignore": "__pycache__/\n*.py[cod]\n/build/\n"},
    ],
)
def test_common_rules_leave_out_what_git_ignores(tmp_path, rules):
    for name in ("a.py", "a.txt", "lib/a.py", "lib/b.txt", "src/a.py", "src/a.txt", "src/b.py"):
        write(tmp_path / name)
    for name in ("src/lib/a.py", "src/lib/b.py", "src/__pycache__/a.pyc", "build/x", "src/build/x"):
        write(tmp_path / name)
    for name, lines in rules.items():
        write(tmp_path / name, lines)
    assert found(tmp_path) == kept_by_git(tmp_path)
    assert len(open_corpus(tmp_path, check=False).files) == 12


def test_the_package_is_needed_where_there_is_something_to_ignore(tmp_path, monkeypatch):
    write(tmp_path / "a.txt")
    monkeypatch.setitem(sys.modules, "pathspec", None)
    assert found(tmp_path) == {"a.txt"}
    write(tmp_path / ".gitignore")
    with pytest.raises(
        DataError, match=r"needs the package pathspec; run pip install 'gptlab\[git"
    ):
        open_corpus(tmp_path, gitignore=True)
