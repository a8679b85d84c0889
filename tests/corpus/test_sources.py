"""Which files a search finds: patterns, what is only listed, and what can't be looked at."""

import errno
import os
import random
import socket
from pathlib import Path

import pytest

from gptlab.corpus import Corpus, Unreadable, open_corpus
from gptlab.corpus.formats import check_text
from gptlab.corpus.patterns import file_pattern, leads_to, matches
from gptlab.errors import DataError


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names(corpus: Corpus) -> list[str]:
    return [file.relative_to(corpus.root).as_posix() for file in corpus.files]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    write(
        tmp_path / "src",
        "a.py",
        "b.txt",
        "docs/one.md",
        "docs/deep/two.md",
        "lib/a.py",
        "lib/x.py/notes.txt",
        "lib/.hidden/a.py",
    )
    monkeypatch.chdir(tmp_path)
    return Path("src")


@pytest.mark.parametrize(
    ("include", "found"),
    [
        ("*.py", ["a.py", "lib/a.py"]),
        (("*.py", "*.md"), ["a.py", "docs/deep/two.md", "docs/one.md", "lib/a.py"]),
        ("docs/**", ["docs/deep/two.md", "docs/one.md"]),
        ("docs/", ["docs/deep/two.md", "docs/one.md"]),
        ("docs/*", ["docs/one.md"]),
        ("/*.py", ["a.py"]),
        ("./*.py", ["a.py"]),
        ("**/*.py", ["a.py", "lib/a.py"]),
        ("lib/**/*.txt", ["lib/x.py/notes.txt"]),
        ("[ab].*", ["a.py", "b.txt", "lib/a.py"]),
        ("?.txt", ["b.txt"]),
        (
            (),
            ["a.py", "b.txt", "docs/deep/two.md", "docs/one.md", "lib/a.py", "lib/x.py/notes.txt"],
        ),
    ],
)
@pytest.mark.parametrize("check", [True, False])
def test_included_are_the_files_of_folders_that_match(tree, include, found, check):
    assert names(open_corpus(tree, include=include, check=check)) == found


def test_what_is_included_says_nothing_about_a_file_that_was_named(tree):
    assert open_corpus([tree / "b.txt", tree], include="*.py").files == (
        tree / "b.txt",
        tree / "a.py",
        tree / "lib" / "a.py",
    )


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("src/**/*.py", ["src/a.py", "src/lib/a.py", "src/lib/x.py/notes.txt"]),
        ("src/*.txt", ["src/b.txt"]),
        ("src/d*", ["src/docs/deep/two.md", "src/docs/one.md"]),
        ("s[r]c/[!b].*", ["src/a.py"]),
        ("*/docs/*/*", ["src/docs/deep/two.md"]),
    ],
)
def test_a_path_with_wildcards_is_a_pattern(tree, pattern, found):
    assert [f"{file}" for file in open_corpus(pattern).files] == found
    absolute = open_corpus(Path.cwd() / pattern)
    assert absolute.files == tuple(Path.cwd() / file for file in found)


def test_a_patterns_files_are_drawn_as_those_of_its_folder(tree):
    one, other = open_corpus("src/**/*.py"), open_corpus(tree, include="*.py")
    assert one.roots == other.roots == (tree,)
    assert one.name == "src"
    draws = {document.draw for document in one.read()}
    assert len(draws) == 3
    assert draws > {document.draw for document in other.read()}


def test_a_file_with_wildcards_in_its_name_is_itself(tmp_path):
    write(tmp_path, "a[1].txt", "a1.txt")
    assert open_corpus(tmp_path / "a[1].txt").files == (tmp_path / "a[1].txt",)
    assert open_corpus(tmp_path / "a[0-9].txt").files == (tmp_path / "a1.txt",)


@pytest.mark.parametrize("check", [True, False])
def test_patterns_that_match_nothing_are_refused(tree, check):
    with pytest.raises(DataError, match=r"^src/\*\.c matches no text file; give"):
        open_corpus("src/*.c", check=check)
    with pytest.raises(DataError, match=r"^src matches no text file; give"):
        open_corpus(tree, include="*.c", check=check)
    with pytest.raises(DataError, match=r"^no does not exist; give"):
        open_corpus("no/*.py", check=check)
    with pytest.raises(DataError, match=r"^src/a\.py can't be read: Not a directory; give"):
        open_corpus("src/a.py/*", check=check)


def test_patterns_match_as_a_naive_search_finds(tmp_path):
    """Held against pathlib, which has no pattern of files by name alone."""
    rng = random.Random(0)
    for _ in range(60):
        write(
            tmp_path, "/".join([*rng.choices("abc", k=rng.randint(0, 3)), rng.choice("de") + ".x"])
        )
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for _ in range(200):
        parts = rng.choices(["a", "b", "*", "**", "[ab]", "?", "d.x", "*.x"], k=rng.randint(2, 4))
        if parts[-1] == "**":
            continue
        expected = {path for path in tmp_path.glob("/".join(parts)) if path.is_file()}
        pattern = file_pattern("/".join(parts))
        found = {path for path in files if matches(path.relative_to(tmp_path).parts, pattern)}
        assert found == expected
        for path in found:
            inside = path.relative_to(tmp_path).parts
            assert all(leads_to(inside[:depth], pattern) for depth in range(len(inside)))


def test_a_listing_reads_nothing(tmp_path, monkeypatch):
    (tmp_path / "image.png").write_bytes(b"\0")
    write(tmp_path, "a.txt", "b.parquet", ".hidden", "model/tokenizer.json")
    write(tmp_path, "model/tokenizer_config.json", "run/config.json", "run/metrics.jsonl")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "nowhere").symlink_to("there")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")

    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr(Path, "open", refuse)
    corpus = open_corpus(tmp_path, check=False)
    assert names(corpus) == [
        "a.txt",
        "b.parquet",
        "empty.txt",
        "image.png",
        "itself",
        "nowhere",
        "pipe",
        "up",
    ]
    assert corpus.skipped == 0
    (tmp_path / "empty").touch()
    assert open_corpus(tmp_path / "empty", check=False).stored_size == 0
    with pytest.raises(DataError, match="does not exist; give"):
        open_corpus(tmp_path / "missing", check=False)


@pytest.fixture
def tangle(tmp_path):
    """Links that lead nowhere or to folders, and what would never end, beside a text."""
    write(tmp_path, "a.txt", "elsewhere/b.txt")
    folder = tmp_path / "folder"
    write(folder, "a.txt")
    (folder / "broken.txt").symlink_to("nowhere")
    (folder / "itself").symlink_to("itself")
    (folder / "other").symlink_to("../elsewhere")
    (folder / "self").symlink_to(".")
    (folder / "text").symlink_to("../a.txt")
    os.mkfifo(folder / "pipe.jsonl")
    with socket.socket(socket.AF_UNIX) as server:
        # A path of a socket must be short.
        there = Path.cwd()
        os.chdir(folder)
        server.bind("socket.gz")
        os.chdir(there)
    return folder


def test_what_is_no_file_is_told(tangle):
    corpus = open_corpus(tangle, check=False)
    found = list(corpus.read())
    assert {
        item.name.removeprefix(f"{tangle}/"): item.reason if isinstance(item, Unreadable) else ""
        for item in found
    } == {
        "a.txt": "",
        "broken.txt": "gone",
        "itself": "unreadable",
        "other": "link to a folder",
        "pipe.jsonl": "no regular file",
        "self": "link to a folder",
        "socket.gz": "no regular file",
        "text": "",
    }
    assert not any(item.is_row for item in found if isinstance(item, Unreadable))
    told = [item.message for item in found if isinstance(item, Unreadable)]
    assert told[2] == f"{tangle}/other is a link to a folder; name the folder itself to read it"
    assert told[3].startswith(f"{tangle}/pipe.jsonl is no regular file; write")
    with pytest.raises(DataError, match="itself can't be read: Too many levels"):
        open_corpus(tangle / "itself")


def test_what_is_no_file_is_counted(tangle):
    corpus = open_corpus(tangle)
    assert names(corpus) == ["a.txt", "text"]
    assert corpus.skipped == 6


def test_a_link_to_a_folder_is_told_where_something_in_it_might_match(tangle):
    corpus = open_corpus(tangle, include="*.txt", check=False)
    assert names(corpus) == ["a.txt", "broken.txt", "other", "self"]
    assert names(open_corpus(f"{tangle}/*.txt", check=False)) == ["a.txt", "broken.txt"]


@pytest.mark.parametrize("check", [True, False])
def test_prepared_datasets_are_passed_over(tmp_path, check):
    write(tmp_path, "a.txt", "made/manifest.json", "made/documents.bin", "made/rejects.jsonl")
    write(tmp_path, "made/dev/x.txt", "made/tokenizer/tokenizer.tiktoken", "site/manifest.json")
    assert names(open_corpus(tmp_path, check=check)) == ["a.txt", "site/manifest.json"]


@pytest.mark.parametrize("inside", ["work/journal.json", "dataset/tokens-00000.bin"])
@pytest.mark.parametrize("check", [True, False])
def test_unfinished_preparations_are_passed_over(tmp_path, inside, check):
    write(tmp_path, "a.txt", "made.unfinished/lock", f"made.unfinished/{inside}")
    write(tmp_path, "made.unfinished/input/x.jsonl", "made.unfinished/input.txt")
    write(tmp_path, "my.unfinished/lock", "my.unfinished/work.txt", f"project/{inside}")
    assert names(open_corpus(tmp_path, check=check)) == [
        "a.txt",
        "my.unfinished/lock",
        "my.unfinished/work.txt",
        f"project/{inside}",
    ]


def test_a_folder_without_a_file_is_refused_though_nothing_is_read(tmp_path):
    with pytest.raises(DataError, match="holds no text file; give"):
        open_corpus(tmp_path, check=False)


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder that can't be read, beside texts; root could read it, whatever its mode."""
    write(tmp_path, "a.txt", "locked/b.txt", "z.txt")
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", f"{path}")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return tmp_path / "locked"


def test_a_folder_that_cant_be_read_is_told(locked):
    assert open_corpus(locked.parent).skipped == 1
    assert names(open_corpus(locked.parent)) == ["a.txt", "z.txt"]
    corpus = open_corpus(locked.parent, check=False)
    found = list(corpus.read())
    assert [item.name for item in found] == [f"{file}" for file in corpus.files]
    assert isinstance(found[1], Unreadable)
    assert found[1].reason == "unreadable"
    assert f"{locked} can't be read: " in found[1].message
    with pytest.raises(DataError, match="locked can't be read: "):
        list(corpus.documents())
    # What does not match a pattern is not looked at, nor told.
    assert names(open_corpus(f"{locked.parent}/*.txt", check=False)) == ["a.txt", "z.txt"]


@pytest.mark.parametrize("check", [True, False])
def test_a_folder_of_which_nothing_can_be_read_is_refused(locked, check):
    with pytest.raises(DataError, match="locked can't be read: Permission denied; give"):
        open_corpus(locked, check=check)


@pytest.mark.parametrize("check", [True, False])
def test_a_machine_that_can_open_no_more_files_is_no_fault_of_a_folder(
    tmp_path, monkeypatch, check
):
    def refuse(path):
        raise OSError(errno.EMFILE, "Too many open files", f"{path}")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        open_corpus(tmp_path, check=check)


def test_a_file_that_vanishes_while_it_is_looked_for_is_no_text(tmp_path, monkeypatch):
    write(tmp_path, "a.txt", "b.txt")

    def check(file, **settings):
        if file.name == "b.txt":
            file.unlink()
        check_text(file, **settings)

    monkeypatch.setattr("gptlab.corpus.find.check_text", check)
    corpus = open_corpus(tmp_path)
    assert names(corpus) == ["a.txt"]
    assert corpus.skipped == 1


def test_a_listing_tells_what_has_changed(tmp_path):
    write(tmp_path, "a.txt", "b/c.txt")
    corpus = open_corpus(tmp_path)
    before = list(corpus.listing())
    assert [line.partition(":")[0] for line in before] == ["a.txt", "b/c.txt"]
    assert list(open_corpus(tmp_path).listing()) == before
    (tmp_path / "a.txt").write_text("longer text")
    os.utime(tmp_path / "b" / "c.txt", (1, 1))
    changed = list(corpus.listing())
    assert not set(changed) & set(before)
    (tmp_path / "a.txt").unlink()
    assert next(corpus.listing()) == "a.txt: gone"


def test_many_files_that_were_named_are_placed(tmp_path):
    """Each by the first of the paths that were named which it is or lies in."""
    write(tmp_path, "a/1.txt", "a/b/2.txt", "a/b/3.txt")
    corpus = open_corpus([tmp_path / "a/b/2.txt", tmp_path / "a", tmp_path / "a/b"])
    assert [line.partition(":")[0] for line in corpus.listing()] == ["2.txt", "1.txt", "b/3.txt"]
