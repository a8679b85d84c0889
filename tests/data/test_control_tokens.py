"""Control tokens stand in front of documents and change nothing else."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gptlab
from gptlab.config import PrepareConfig
from gptlab.corpus.languages import LANGUAGES, language_of
from gptlab.data import TokenDataset
from gptlab.data.preparation import collect, journal, reading
from gptlab.data.text_size import MeasuredDataset
from gptlab.errors import ConfigError
from gptlab.evaluation.held_out import documents
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.base import SPECIAL_TOKENS

NAMES = ("<python>", "<markdown>", "<text>", "<pandas>", "<os.path>")
TOKENIZER = BPETokenizer([(b"t", b"h")], special_tokens=(*SPECIAL_TOKENS, *NAMES))

# Each file, its text, and its tokens by language and by word.
FILES = {
    "a.txt": ("the pandas of the zoo, pandas all\n" * 3, ["<text>", "<pandas>"]),
    "b.py": ("from os import path\nimport pandas.api\n", ["<python>", "<pandas>"]),
    "c.xyz": ("the end of os.path\n", ["<os.path>"]),
    "d.py": ("# <python> pandas_df <EOS>\nx = 1\n", ["<python>"]),
    "e.md": ("import pandas as\n", ["<markdown>", "<pandas>"]),
}
BY_IMPORT = [["<text>"], ["<python>", "<pandas>", "<os.path>"], [], ["<python>"], ["<markdown>"]]
ALL = "language,pandas,os.path"


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, (text, _) in FILES.items():
        (folder / name).write_text(text)
    return folder


def prepare(source: Path, output: Path, **options: object) -> gptlab.PrepareResult:
    config = PrepareConfig(
        sources=[str(source)], output=str(output), **{"quiet": True, "processes": 1} | options
    )
    return gptlab.prepare(config, tokenizer=TOKENIZER)


def documents_in(folder: Path) -> list[list[int]]:
    dataset = TokenDataset(folder)
    ends = [0, *dataset.document_ends.tolist()]
    return [dataset.read(start, end - start).tolist() for start, end in pairwise(ends)]


def expected(text: str, names: list[str]) -> list[int]:
    ids = [TOKENIZER.special_tokens[name] for name in names]
    return [*ids, *TOKENIZER.encode(text), TOKENIZER.eos_id]


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("mode", ["any", "import"])
def test_they_stand_in_front_of_each_document(folder, tmp_path, mode):
    result = prepare(folder, tmp_path / "data", control_tokens=ALL, keyword_mode=mode)
    texts = [text for text, _ in FILES.values()]
    tokens = BY_IMPORT if mode == "import" else [names for _, names in FILES.values()]
    assert documents_in(result.path) == list(map(expected, texts, tokens))
    every = [name for names in tokens for name in names]
    assert result.report.control_tokens == {name: every.count(name) for name in set(every)}


def test_language_alone_and_keywords_alone(folder, tmp_path):
    language = prepare(folder, tmp_path / "language", control_tokens=["language"])
    texts = [text for text, _ in FILES.values()]
    tokens = [["<text>"], ["<python>"], [], ["<python>"], ["<markdown>"]]
    assert documents_in(language.path) == list(map(expected, texts, tokens))
    words = prepare(folder, tmp_path / "words", control_tokens=["pandas", "pandas"])
    assert documents_in(words.path)[3] == expected(FILES["d.py"][0], [])
    assert words.report.control_tokens == {"<pandas>": 3}


def test_all_else_is_as_without_them(folder, tmp_path):
    (folder / "f.md").write_text(FILES["b.py"][0])
    options = {"drop_duplicates": True, "max_characters": 90, "dev_size": 0.4}
    plain = prepare(folder, tmp_path / "plain", **options)
    tagged = prepare(folder, tmp_path / "tagged", control_tokens=ALL, **options)
    for part in ("", "dev"):
        one, other = (TokenDataset(result.path / part).manifest for result in (plain, tagged))
        for key in ("bytes", "characters", "documents", "source"):
            assert one[key] == other[key]
        stripped = [
            [id_ for id_ in document if id_ < TOKENIZER.special_tokens["<python>"]]
            for document in documents_in(tagged.path / part)
        ]
        assert stripped == documents_in(plain.path / part)
    assert plain.report.left_out == tagged.report.left_out == {"duplicate": 1, "too long": 1}
    assert tagged.report.control_tokens["<python>"] == 2


def test_they_are_no_text_of_windows(folder, tmp_path):
    options = {"mode": "chunk", "seq_len": 8, "short": "keep"}
    sizes = []
    for name, control in (("plain", ()), ("tagged", ("language",))):
        result = prepare(folder, tmp_path / name, control_tokens=control, **options)
        sizes.append(MeasuredDataset(result.path, tokenizer=TOKENIZER))
    texts = [text for text, _ in FILES.values()]
    assert list(documents(sizes[1:], TOKENIZER)) == texts
    # The first token of a document is context only: of its text, where no control token is there.
    first = [len(TOKENIZER.decode(TOKENIZER.encode(text)[:1])) for text in texts]
    assert sizes[0].target_bytes == sum(map(len, texts)) - sum(first)
    assert sizes[1].target_bytes == sum(map(len, texts)) - first[list(FILES).index("c.xyz")]


def test_a_document_in_parts_has_them_once(folder, tmp_path, monkeypatch):
    whole = prepare(folder, tmp_path / "whole", control_tokens=["language"])
    monkeypatch.setattr(reading, "_WHOLE_CHARACTERS", 20)
    monkeypatch.setattr(reading, "_PART_CHARACTERS", 8)
    parts = prepare(folder, tmp_path / "parts", control_tokens=["language"])
    assert documents_in(parts.path) == documents_in(whole.path)
    # Keywords may stand anywhere, so the document has to be held.
    words = prepare(folder, tmp_path / "words", control_tokens=["pandas"])
    assert words.report.left_out == {"too long to be filtered": 3}


def test_rows_have_the_language_of_the_inner_suffix(tmp_path):
    for name in ("dump.py.jsonl.gz", "other.jsonl.gz"):
        with gzip.open(tmp_path / name, "wt") as stream:
            stream.write(json.dumps({"text": f"{name} row"}) + "\n")
    dump = prepare(tmp_path / "dump.py.jsonl.gz", tmp_path / "dump", control_tokens=["language"])
    assert documents_in(dump.path) == [expected("dump.py.jsonl.gz row", ["<python>"])]
    other = prepare(tmp_path / "other.jsonl.gz", tmp_path / "other", control_tokens=["language"])
    assert documents_in(other.path) == [expected("other.jsonl.gz row", [])]


def test_languages_are_told_by_suffix():
    assert language_of(Path("A.PY")) == language_of(Path("x/a.py.gz")) == "python"
    assert language_of(Path("py")) is language_of(Path("a.jsonl")) is None
    # A name that a special token may have, and a suffix as it is looked up.
    assert all(name.isalnum() and suffix == suffix.lower() for suffix, name in LANGUAGES.items())
    assert all(suffix[0] == "." and "." not in suffix[1:] for suffix in LANGUAGES)


def test_the_number_of_processes_changes_no_byte(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("gptlab.data.preparation.pipeline._BATCH_CHARACTERS", 40)
    for processes in (1, 3):
        prepare(folder, tmp_path / f"{processes}", control_tokens=ALL, processes=processes)
    assert tree(tmp_path / "1") == tree(tmp_path / "3")


class Killed(BaseException):
    """Stands for a SIGKILL."""


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(after=st.integers(0, 12), control=st.sampled_from(["language", ALL]))
def test_cut_off_anywhere_the_outcome_is_the_same(folder, tmp_path_factory, after, control):
    target = tmp_path_factory.mktemp("cut")
    take, taken = collect.Collector.take, 0

    def counted(self: collect.Collector, examined: object) -> None:
        nonlocal taken
        if taken == after:
            raise Killed
        taken += 1
        take(self, examined)

    with pytest.MonkeyPatch.context() as patch:
        if control == "language":
            patch.setattr(reading, "_WHOLE_CHARACTERS", 20)
            patch.setattr(reading, "_PART_CHARACTERS", 8)
        prepare(folder, target / "straight", control_tokens=control)
        patch.setattr(journal, "_SECONDS_BETWEEN", 0.0)
        with pytest.MonkeyPatch.context() as kill:
            kill.setattr(collect.Collector, "take", counted)
            try:
                prepare(folder, target / "cut", control_tokens=control)
            except Killed:
                assert not (target / "cut").exists()
        if not (target / "cut").exists():
            prepare(folder, target / "cut", control_tokens=control)
    assert tree(target / "cut") == tree(target / "straight")


def test_what_the_tokenizer_lacks_is_said(folder, tmp_path):
    (folder / "more.go").write_text("package main\n")
    (folder / "more.rs").write_text("fn main() {}\n")
    expected = (
        "control_tokens needs <go>, <rust>, <numpy>, but the tokenizer has no such special token; "
        "make one with gptlab-tokenize --tokenizer TOKENIZER --special '<go>' '<rust>' '<numpy>' "
        "--output NEW, and write --tokenizer NEW"
    )
    with pytest.raises(ConfigError) as caught:
        prepare(folder, tmp_path / "data", control_tokens="language,pandas,numpy")
    assert str(caught.value) == expected
    assert not (tmp_path / "data.unfinished").exists()


def test_a_token_that_counts_in_any_text_will_do(folder, tmp_path):
    tokenizer = BPETokenizer([]).with_special_tokens(["<pandas>"], in_text=True)
    config = PrepareConfig(
        sources=[str(folder)], output=str(tmp_path / "data"), control_tokens="pandas", quiet=True
    )
    result = gptlab.prepare(config, tokenizer=tokenizer)
    assert [document[0] == 260 for document in documents_in(result.path)] == [
        "<pandas>" in names for _, names in FILES.values()
    ]


def test_what_does_not_fit_is_said(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"control_tokens has 'a-b', which is no name of a mod"):
        prepare(folder, tmp_path / "data", control_tokens="a-b", keyword_mode="import")
    for control, mode in (("language", "import"), ("pandas", "all")):
        with pytest.raises(ConfigError, match="keyword_mode does nothing without keywords"):
            prepare(folder, tmp_path / "data", control_tokens=control, keyword_mode=mode)


def test_another_choice_is_another_preparation(folder, tmp_path, monkeypatch):
    def killed(self: collect.Collector, examined: object) -> None:
        raise Killed

    with monkeypatch.context() as kill:
        kill.setattr(journal, "_SECONDS_BETWEEN", 0.0)
        prepare(folder, tmp_path / "first")
        take = collect.Collector.take
        kill.setattr(
            collect.Collector,
            "take",
            lambda self, item: killed(self, item) if self.counts.documents else take(self, item),
        )
        with pytest.raises(Killed):
            prepare(folder, tmp_path / "data")
    with pytest.raises(gptlab.errors.DataError, match="differs in control_tokens"):
        prepare(folder, tmp_path / "data", control_tokens="pandas")
