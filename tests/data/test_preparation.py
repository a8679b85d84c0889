"""A dataset is what a plain loop over the documents makes, however the work is cut and shared."""

import gzip
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gptlab
from gptlab.config import FilterConfig, PrepareConfig
from gptlab.corpus.filters import DocumentFilter
from gptlab.data import TokenDataset
from gptlab.data.preparation import collect, journal, pipeline, reading
from gptlab.errors import ConfigError, DataError
from gptlab.parallel import parallel_map
from gptlab.tokenizer import BPETokenizer

TOKENIZER = BPETokenizer([(b"t", b"h"), (b"th", b"e"), (b" ", b"c")])


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    (folder / "a.txt").write_text("the cat sat\n")
    (folder / "b.py").write_text("import pandas as pd\nprint(pd)\n")
    with gzip.open(folder / "c.jsonl.gz", "wt") as stream:
        for text in ("the first row", "the cat sat\n", "", "déjà vu " * 20):
            stream.write(json.dumps({"text": text}) + "\n")
    (folder / "more" / "d.md").write_text("# the cat\n\nsat\n" * 50)
    return folder


DOCUMENTS = [
    "the cat sat\n",
    "import pandas as pd\nprint(pd)\n",
    "the first row",
    "the cat sat\n",
    "déjà vu " * 20,
    "# the cat\n\nsat\n" * 50,
]


def prepare(source: Path | list[Path], output: Path, **settings: object) -> gptlab.PrepareResult:
    sources = source if isinstance(source, list) else [source]
    config = PrepareConfig(
        sources=[str(path) for path in sources],
        output=str(output),
        **{"quiet": True, "processes": 1} | settings,
    )
    return gptlab.prepare(config, tokenizer=TOKENIZER)


def tokens_of(documents: list[str]) -> list[int]:
    return [id_ for text in documents for id_ in [*TOKENIZER.encode(text), TOKENIZER.eos_id]]


def read(folder: Path) -> list[int]:
    dataset = TokenDataset(folder, tokenizer=TOKENIZER.fingerprint())
    return dataset.read(0, len(dataset)).tolist()


def texts_in(folder: Path) -> list[str]:
    dataset = TokenDataset(folder)
    ends = [0, *dataset.document_ends.tolist()]
    return [TOKENIZER.decode(dataset.read(a, b - a - 1).tolist()) for a, b in pairwise(ends)]


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rejects(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "rejects.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(Path(row["document"]).name, row["reason"]) for row in rows]


def test_nothing_is_lost_by_default(folder, tmp_path):
    result = prepare(folder, tmp_path / "data")
    assert read(result.path) == tokens_of(DOCUMENTS)
    assert texts_in(result.path) == DOCUMENTS
    assert rejects(result.path) == [("c.jsonl.gz, line 3", "empty")]
    report = result.report
    assert report.read_documents == 7
    assert report.documents == {"train": 6}
    assert report.tokens == {"train": len(tokens_of(DOCUMENTS))}
    assert report.bytes == {"train": sum(len(text.encode()) for text in DOCUMENTS)}
    assert report.left_out == {"empty": 1}
    assert not (tmp_path / "data.unfinished").exists()


def test_the_manifest_says_how_the_dataset_came_about(folder, tmp_path):
    prepare(folder, tmp_path / "data", min_characters=5, mode="chunk", seq_len=16)
    manifest = TokenDataset(tmp_path / "data").manifest
    assert manifest["tokenizer"] == TOKENIZER.fingerprint()
    assert manifest["documents"] == 6
    assert manifest["characters"] == sum(map(len, DOCUMENTS))
    assert manifest["choices"]["min_characters"] == 5
    assert (manifest["windows"]["mode"], manifest["windows"]["seq_len"]) == ("chunk", 16)
    assert manifest["report"]["left_out"] == {"empty": 1}
    assert manifest["source"]["files"] == 4
    saved = gptlab.load_tokenizer(tmp_path / "data" / "tokenizer")
    assert saved.fingerprint() == TOKENIZER.fingerprint()


def test_the_source_digest_follows_the_content(folder, tmp_path):
    def digest(name: str) -> str:
        prepare(folder, tmp_path / name)
        return TokenDataset(tmp_path / name).manifest["source"]["sha256"]

    first = digest("first")
    assert digest("again") == first
    (folder / "a.txt").write_text("the cat sat.")
    assert digest("changed") != first


@pytest.mark.parametrize("processes", [2, 3])
def test_the_number_of_processes_changes_no_byte(folder, tmp_path, monkeypatch, processes):
    monkeypatch.setattr("gptlab.data.preparation.pipeline._BATCH_CHARACTERS", 40)
    options = {"min_characters": 12, "drop_duplicates": True, "dev_size": 0.3, "shard_tokens": 50}
    prepare(folder, tmp_path / "one", **options)
    prepare(folder, tmp_path / "many", processes=processes, **options)
    assert tree(tmp_path / "one") == tree(tmp_path / "many")


def test_filters_and_duplicates_are_counted_and_named(folder, tmp_path):
    result = prepare(folder, tmp_path / "data", drop_duplicates=True, max_characters=700)
    kept = [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[2], DOCUMENTS[4]]
    assert texts_in(result.path) == kept
    assert rejects(result.path) == [
        ("c.jsonl.gz, line 2", "duplicate"),
        ("c.jsonl.gz, line 3", "empty"),
        ("d.md", "too long"),
    ]
    assert result.report.left_out == {"duplicate": 1, "empty": 1, "too long": 1}
    lines = (result.path / "rejects.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["detail"] == str(folder / "a.txt")


def test_near_duplicates_are_left_out(tmp_path):
    words = " ".join(f"word{number}" for number in range(300))
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in (words, f"{words} more", "else"))
    )
    result = prepare(tmp_path / "rows.jsonl", tmp_path / "data", near_duplicates=0.8)
    assert texts_in(result.path) == [words, "else"]
    assert result.report.left_out == {"near duplicate": 1}


def test_keywords_by_import(folder, tmp_path):
    result = prepare(folder, tmp_path / "data", keywords="pandas,sklearn", keyword_mode="import")
    assert texts_in(result.path) == [DOCUMENTS[1]]


def test_max_documents_are_the_first_ones(folder, tmp_path):
    result = prepare(folder, tmp_path / "data", max_documents=3)
    assert texts_in(result.path) == DOCUMENTS[:3]
    assert result.report.read_documents == 3


def test_a_fraction_is_drawn_by_the_seed(tmp_path):
    texts = [f"text {number}" for number in range(400)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    half = texts_in(prepare(rows, tmp_path / "half", fraction=0.5).path)
    assert 150 < len(half) < 250
    assert half == [text for text in texts if text in set(half)]
    assert texts_in(prepare(rows, tmp_path / "again", fraction=0.5).path) == half
    assert texts_in(prepare(rows, tmp_path / "other", fraction=0.5, seed=1).path) != half
    more = texts_in(prepare(rows, tmp_path / "more", fraction=0.7).path)
    assert set(half) < set(more)
    assert (tmp_path / "half" / "rejects.jsonl").read_text() == ""


@pytest.mark.parametrize("kind", ["files", "rows", "one text"])
def test_what_is_held_out_is_in_no_training_document(tmp_path, kind):
    texts = [f"{number} is a text of its own\n" for number in range(40)]
    source = tmp_path / "source"
    source.mkdir()
    if kind == "files":
        for number, text in enumerate(texts):
            (source / f"{number:02d}.txt").write_text(text)
    elif kind == "rows":
        for name, part in (("a", texts[:25]), ("b", texts[25:])):
            lines = (json.dumps({"text": text}) + "\n" for text in part)
            (source / f"{name}.jsonl").write_text("".join(lines))
    else:
        (source / "all.txt").write_text("".join(texts))
    result = prepare(source, tmp_path / "data", dev_size=0.2, mode="segment", stride=3)
    train, dev = texts_in(result.path), texts_in(result.path / "dev")
    if kind == "one text":
        assert train[0] + dev[0] == "".join(texts)
        assert 6 <= dev[0].count("\n") <= 9
    else:
        assert sorted(train + dev) == sorted(texts)
        assert 2 <= len(dev) <= 16
    assert result.report.documents == {"train": len(train), "dev": len(dev)}


def test_random_windows_share_the_tokens(folder, tmp_path):
    options = {"mode": "segment", "segment_len": 8, "stride": 3, "dev_size": 0.25}
    prepare(folder, tmp_path / "data", split="random-windows", **options)
    train, dev = TokenDataset(tmp_path / "data"), TokenDataset(tmp_path / "data" / "dev")
    assert len(train) == len(dev) == len(tokens_of(DOCUMENTS))
    assert train.held_out["part"] == "train"
    assert dev.held_out["part"] == "dev"
    assert not list((tmp_path / "data" / "dev").glob("*.bin"))
    train.verify()
    dev.verify()
    with pytest.raises(ConfigError, match=r"random-windows.*mode segment"):
        prepare(folder, tmp_path / "other", split="random-windows", dev_size=0.1)


BAD = {
    "latin1.txt": (b"caf\xe9\n", "not UTF-8"),
    "nul.txt": (b"a\0b", "binary"),
    "empty.txt": (b"", "empty"),
    "cut.txt.gz": (gzip.compress(b"text " * 1000, mtime=0)[:-20], "damaged"),
    "rows.jsonl": (b'{"text": "good"}\n{"text": \n{"other": 1}\n{"text": 3}\n', "broken line"),
}


def test_bad_input_is_counted_named_and_passed_over(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(content)
    (folder / "loop").symlink_to(folder)
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "good.txt").write_text("good text")
    result = prepare(folder, tmp_path / "data")
    assert texts_in(result.path) == ["good text", "good"]
    found = dict(rejects(result.path))
    for name, (_, reason) in BAD.items():
        assert found[f"{name}, line 2" if name.endswith("jsonl") else name] == reason
    assert found["rows.jsonl, line 3"] == "no such field"
    assert found["rows.jsonl, line 4"] == "not a string"


def test_a_source_without_any_good_document_makes_no_dataset(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"a.txt is not UTF-8 text"):
        prepare(tmp_path / "a.txt", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_missing_source_leaves_nothing_behind(tmp_path):
    with pytest.raises(DataError, match=r"missing.txt does not exist"):
        prepare(tmp_path / "missing.txt", tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_an_output_is_replaced_only_if_it_is_a_dataset_and_asked_for(folder, tmp_path):
    prepare(folder, tmp_path / "data")
    with pytest.raises(DataError, match="exists already; write --overwrite"):
        prepare(folder, tmp_path / "data", max_documents=1)
    prepare(folder, tmp_path / "data", max_documents=1, overwrite=True)
    assert texts_in(tmp_path / "data") == DOCUMENTS[:1]
    with pytest.raises(DataError, match="is no dataset, so it is not replaced"):
        prepare(folder, folder, overwrite=True)
    (tmp_path / "empty").mkdir()
    prepare(folder, tmp_path / "empty")


def test_what_is_missing_is_said(folder, tmp_path):
    with pytest.raises(ConfigError, match="there is no output"):
        gptlab.prepare(PrepareConfig(sources=[str(folder)]))
    with pytest.raises(ConfigError, match="there is no source"):
        gptlab.prepare(PrepareConfig(output=str(tmp_path / "data")))
    with pytest.raises(ConfigError, match="there is no tokenizer"):
        gptlab.prepare(PrepareConfig(sources=[str(folder)], output=str(tmp_path / "data")))


class Killed(BaseException):
    """Stands for a SIGKILL: nothing is tidied up behind it but Python's own objects."""


def cut_off(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    taken = 0
    take = collect.Collector.take

    def counted(self: collect.Collector, examined: object) -> None:
        nonlocal taken
        if taken == after:
            raise Killed
        taken += 1
        take(self, examined)

    monkeypatch.setattr(collect.Collector, "take", counted)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=4), whole=st.sampled_from([30, 10**6])
)
def test_cut_off_anywhere_the_outcome_is_the_same(folder, tmp_path_factory, cuts, whole):
    target = tmp_path_factory.mktemp("cut")
    options = {"drop_duplicates": True, "dev_size": 0.3, "shard_tokens": 23}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_WHOLE_CHARACTERS", whole)
        patch.setattr(reading, "_PART_CHARACTERS", 20)
        prepare(folder, target / "straight", **options)
        patch.setattr(journal, "_SECONDS_BETWEEN", 0.0)
        for after in cuts:
            with pytest.MonkeyPatch.context() as kill:
                cut_off(kill, after=after)
                try:
                    prepare(folder, target / "cut", **options)
                    break
                except Killed:
                    assert not (target / "cut").exists()
        else:
            result = prepare(folder, target / "cut", **options)
            assert result.resumed == any(cuts)
    assert tree(target / "cut") == tree(target / "straight")


def test_an_unfinished_preparation_goes_on_only_as_it_was_begun(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN", 0.0)
    with monkeypatch.context() as kill:
        cut_off(kill, after=3)
        with pytest.raises(Killed):
            prepare(folder, tmp_path / "data")
    with pytest.raises(DataError, match=r"differs in min_characters; finish it .* --overwrite"):
        prepare(folder, tmp_path / "data", min_characters=5)
    (folder / "a.txt").write_text("another text")
    with pytest.raises(DataError, match="differs in the sources"):
        prepare(folder, tmp_path / "data")
    result = prepare(folder, tmp_path / "data", overwrite=True)
    assert not result.resumed
    assert texts_in(result.path)[0] == "another text"


HOLD = """
import sys, time
from pathlib import Path
from gptlab.data.preparation.journal import workplace

with workplace(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_at_once_do_not_mix(folder, tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "data.unfinished")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(DataError, match="another process is writing to"):
                prepare(folder, tmp_path / "data")
        finally:
            holder.kill()
    prepare(folder, tmp_path / "data")


def test_what_appears_at_the_output_meanwhile_is_kept(folder, tmp_path, monkeypatch):
    finish = pipeline.finish

    def slow(*arguments: object, **options: object) -> object:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "thesis.txt").write_text("precious")
        return finish(*arguments, **options)

    monkeypatch.setattr(pipeline, "finish", slow)
    with pytest.raises(DataError, match="data is no dataset, so it is not replaced"):
        prepare(folder, tmp_path / "data")
    assert (tmp_path / "data" / "thesis.txt").read_text() == "precious"


def test_a_foreign_folder_in_the_way_is_kept(folder, tmp_path):
    (tmp_path / "data.unfinished").mkdir()
    (tmp_path / "data.unfinished" / "notes.txt").write_text("precious")
    with pytest.raises(DataError, match=r"data.unfinished is in the way; move or remove it"):
        prepare(folder, tmp_path / "data")
    assert (tmp_path / "data.unfinished" / "notes.txt").read_text() == "precious"


def test_a_kill_behind_the_publication_is_in_nobodys_way(folder, tmp_path, monkeypatch):
    def killed(_: journal.Journal) -> None:
        raise Killed

    with monkeypatch.context() as kill:
        kill.setattr(journal.Journal, "end", killed)
        with pytest.raises(Killed):
            prepare(folder, tmp_path / "data")
    assert read(tmp_path / "data") == tokens_of(DOCUMENTS)
    assert (tmp_path / "data.unfinished").exists()
    prepare(folder, tmp_path / "data", overwrite=True)
    assert read(tmp_path / "data") == tokens_of(DOCUMENTS)
    assert not (tmp_path / "data.unfinished").exists()


def test_half_a_tokenizer_is_no_part_of_the_outcome(folder, tmp_path, monkeypatch):
    prepare(folder, tmp_path / "straight")
    finish = pipeline.finish

    def killed(*arguments: object, **options: object) -> object:
        finish(*arguments, **options)
        (tmp_path / "data.unfinished/dataset/tokenizer/.vocab.json.7.tmp").write_text("{")
        raise Killed

    with monkeypatch.context() as kill:
        kill.setattr(pipeline, "finish", killed)
        with pytest.raises(Killed):
            prepare(folder, tmp_path / "data")
    assert prepare(folder, tmp_path / "data").resumed
    assert tree(tmp_path / "data") == tree(tmp_path / "straight")


def test_a_journal_whose_files_are_damaged_says_what_to_remove(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_SECONDS_BETWEEN", 0.0)
    with monkeypatch.context() as kill:
        cut_off(kill, after=3)
        with pytest.raises(Killed):
            prepare(folder, tmp_path / "data")
    (tmp_path / "data.unfinished/dataset/tokens-00000.bin").write_bytes(b"")
    message = r"tokens-00000.bin is .* can't go on; remove .*data.unfinished$"
    with pytest.raises(DataError, match=message):
        prepare(folder, tmp_path / "data")


def test_nothing_left_to_hold_out_is_refused(folder, tmp_path):
    for options, purpose in (
        ({"max_characters": 11}, "training"),
        ({"max_documents": 1}, "(training|evaluation, for which dev_size holds a part out)"),
    ):
        with pytest.raises(DataError, match=f"is kept for {purpose}: left out are"):
            prepare(folder, tmp_path / "data", dev_size=0.2, **options)
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "data.unfinished").exists()


def test_what_has_no_text_takes_its_place_in_a_batch(tmp_path, monkeypatch):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": null}\n' * 5000 + '{"text": "last"}\n')
    sizes = []

    def watched(make: object, batches: object, **options: object) -> object:
        return parallel_map(make, (sizes.append(len(b)) or b for b in batches), **options)

    monkeypatch.setattr(pipeline, "parallel_map", watched)
    result = prepare(rows, tmp_path / "data")
    assert texts_in(result.path) == ["last"]
    assert result.report.left_out == {"null": 5000}
    assert sum(sizes) == 5001
    assert max(sizes) < 5000


@pytest.mark.parametrize("end", ["", " and more"])
def test_a_word_without_end_is_left_out(tmp_path, monkeypatch, end):
    monkeypatch.setattr(reading, "_LONGEST_CHUNK", 1000)
    monkeypatch.setattr(reading, "_PART_CHARACTERS", 100)
    (tmp_path / "a.txt").write_text("some words " + "x" * 5000 + end)
    (tmp_path / "b.txt").write_text("word " * 1000)
    for whole in (10**6, 3000):
        monkeypatch.setattr(reading, "_WHOLE_CHARACTERS", whole)
        result = prepare([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / f"{whole}")
        assert result.report.left_out == {"a word too long to be encoded": 1}
        assert texts_in(result.path) == ["word " * 1000]


@pytest.mark.parametrize("output", [".", "..", "data/.."])
def test_an_output_has_a_name(folder, output):
    with pytest.raises(ConfigError, match="give the dataset's folder a name"):
        prepare(folder, output)


def test_a_broken_link_is_something_at_the_output(folder, tmp_path):
    (tmp_path / "data").symlink_to("nowhere")
    with pytest.raises(DataError, match="is no dataset, so it is not replaced"):
        prepare(folder, tmp_path / "data")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seq_len": 64}, "seq_len is for mode 'chunk', but mode is 'stream'"),
        ({"mode": "chunk", "stride": 3}, "stride is for mode 'segment', but mode is 'chunk'"),
        ({"keyword_mode": "import"}, "keyword_mode does nothing without keywords"),
        ({"mode": "segment", "segment_len": 8, "stride": 9}, "tokens would be passed over"),
        ({"min_lines": 3, "max_lines": 2}, "min_lines is 3, but max_lines is 2"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        PrepareConfig(**settings)


@pytest.mark.parametrize("options", [{}, {"min_characters": 1}])
def test_a_long_document_is_encoded_as_a_short_one(tmp_path, options):
    text = "".join(f"the {number} cats\n" for number in range(100_000))
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt").write_text(text[:300_000])
    result = prepare([tmp_path / "a.txt", tmp_path / "b.txt"], tmp_path / "data", **options)
    expected = [text, text[:300_000]]
    assert read(result.path) == tokens_of(expected)
    assert texts_in(result.path) == expected


texts = st.text(st.characters(codec="utf-8"), max_size=60)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    documents=st.lists(st.one_of(texts, st.sampled_from(["twice", "import os\n"])), min_size=1),
    min_characters=st.integers(0, 8),
    drop_duplicates=st.booleans(),
    shard_tokens=st.integers(1, 50),
)
def test_equals_a_plain_loop(
    tmp_path_factory, documents, min_characters, drop_duplicates, shard_tokens
):
    folder = tmp_path_factory.mktemp("plain")
    lines = (json.dumps({"text": text}) + "\n" for text in documents)
    (folder / "rows.jsonl").write_text("".join(lines))
    judge = DocumentFilter(FilterConfig(min_characters=min_characters))
    kept: list[str] = []
    for text in documents:
        is_kept = text and judge.reason(text) is None
        if is_kept and not (drop_duplicates and text in kept):
            kept.append(text)
    options = {"min_characters": min_characters, "drop_duplicates": drop_duplicates}
    if not kept:
        with pytest.raises(DataError, match="no document"):
            prepare(folder / "rows.jsonl", folder / "data", **options)
        return
    prepare(folder / "rows.jsonl", folder / "data", shard_tokens=shard_tokens, **options)
    assert read(folder / "data") == tokens_of(kept)
    assert TokenDataset(folder / "data").num_documents == len(kept)
