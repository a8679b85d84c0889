"""What a run reads, and what it says about what nobody named."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from gptlab.config import TrainConfig
from gptlab.corpus import open_corpus
from gptlab.data import prepare_cached, toy
from gptlab.errors import ConfigError, DataError, TokenizerError
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.adapters import train_sentencepiece
from gptlab.training import run_tokenizer
from gptlab.training.inputs import Inputs, load_inputs

SHIPPED = Path(__file__).parents[2] / "toy_data"


def load(config: TrainConfig, saved=None):
    lines: list[str] = []
    return load_inputs(config, saved=saved, say=lines.append), lines


def folder_of(found: Inputs) -> Path:
    (train,) = found.train
    return train.dataset.folder


def test_a_text_alone_gets_a_tokenizer_and_a_held_out_part(tiny):
    found, lines = load(tiny())
    assert found.tokenizer.vocab_size == 270
    parts = (found.train[0].dataset, found.evaluation[0])
    whole = sum(part.manifest["characters"] for part in parts)
    assert whole == len(Path("cats.txt").read_text())
    assert any("evaluation text: the last 10% of" in line for line in lines)
    assert any("trained a tokenizer of 270 tokens (--tokenizer" in line for line in lines)
    assert found.floor is None


def test_the_tokenizer_never_sees_the_held_out_part(tiny):
    Path("cats.txt").write_text("ab ab ab\n" * 90 + "xy xy xy\n" * 10)
    found, _ = load(tiny(vocab_size=261))
    assert found.tokenizer.merges == [(b"a", b"b")]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
def test_the_tokenizers_training_is_seen_in_a_terminal(tiny, monkeypatch, capsys, terminal, quiet):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    load(tiny(quiet=quiet))
    assert ("merges: 100%" in capsys.readouterr().err) == (terminal and not quiet)


def test_the_second_time_nothing_is_made(tiny, monkeypatch):
    first, _ = load(tiny())

    def again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(run_tokenizer, "train_bpe", again)
    second, lines = load(tiny())
    assert second.tokenizer.fingerprint() == first.tokenizer.fingerprint()
    assert folder_of(second) == folder_of(first)
    assert not any("tokenizer" in line for line in lines)


def test_a_tokenizer_that_was_half_saved_is_made_again(tiny, monkeypatch):
    def killed(self: BPETokenizer, folder: Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "tokenizer.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BPETokenizer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            load(tiny())
    assert load(tiny())[0].tokenizer.vocab_size == 270


def test_a_text_with_too_few_merges_is_told(tiny):
    Path("cats.txt").write_text("ab\n" * 50)
    with pytest.warns(UserWarning, match="vocab_size=5000 can't be reached"):
        found, lines = load(tiny(vocab_size=5000))
    assert found.tokenizer.vocab_size < 300
    assert not any("reached" in line for line in lines)


def test_bpe_dropout_is_for_the_training_text_alone(tiny):
    plain, _ = load(tiny())
    first, _ = load(tiny(bpe_dropout=0.3))
    again, _ = load(tiny(bpe_dropout=0.3))
    other, _ = load(tiny(bpe_dropout=0.3, seed=1))
    decode = plain.tokenizer.decode

    def ids(inputs: Inputs) -> list[int]:
        dataset = inputs.train[0].dataset
        return dataset.read(0, len(dataset)).tolist()

    assert folder_of(again) == folder_of(first)
    assert len({folder_of(inputs) for inputs in (plain, first, other)}) == 3
    assert len(ids(plain)) < len(ids(first))
    assert decode(ids(first)) == decode(ids(other)) == decode(ids(plain))
    assert ids(first) != ids(other)
    assert len({inputs.evaluation[0].folder for inputs in (plain, first, other)}) == 1


def test_bpe_dropout_needs_merges_to_leave_out(tiny):
    lines = Path("cats.txt").read_text().splitlines()
    train_sentencepiece(lines, vocab_size=290, model_type="bpe").save("pieces")
    config = tiny(tokenizer="pieces", vocab_size=290)
    assert len(load(config)[0].train[0].dataset) > 0
    with pytest.raises(TokenizerError, match=r"dropout=0\.1 is for gptlab's own BPE"):
        load(config.replace(bpe_dropout=0.1))


def test_the_named_vocabulary_must_be_the_tokenizers(tiny):
    BPETokenizer([]).save("tok")
    with pytest.raises(ConfigError) as error:
        load(tiny(tokenizer="tok", vocab_size=384))
    assert str(error.value) == (
        "tokenizer tok has 260 tokens, but the vocabulary is 384; write --tgt_vocab_size 260"
    )


def test_a_missing_tokenizer_is_one_line(tiny):
    with pytest.raises(TokenizerError) as error:
        load(tiny(tokenizer="nowhere"))
    assert "\n" not in str(error.value)


def test_a_folder_is_split_by_files_and_what_is_left_out_is_told(tiny, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.txt").write_text(f"text number {number}\n" * 5)
    (folder / "image.png").write_bytes(b"\0\1\2")
    _, lines = load(tiny(train_data=str(folder)))
    assert any("of 10 files" in line for line in lines)
    assert any("left out: 1 file(s) under" in line for line in lines)
    assert any("that are binary, damaged or not UTF-8" in line for line in lines)
    _, lines = load(tiny(train_data=str(folder), eval_data="cats.txt"))
    assert any("left out: 1 file(s) under" in line for line in lines)


def test_a_file_of_rows_is_split_by_documents(tiny, tmp_path):
    story = (SHIPPED / "tiny_sp_test.txt").read_text().split(toy.SEPARATOR)[0]
    rows = [story] + [f"text number {number} of them" for number in range(30)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    found, lines = load(tiny(train_data=str(path)))
    parts = (found.train[0].dataset, found.evaluation[0])
    assert sum(part.num_documents for part in parts) == len(rows)
    assert f"evaluation text: about 10% of the documents of {path}, held out" in lines[0]
    found, _ = load(tiny(eval_data=str(path)))
    assert found.floor is None


@pytest.fixture
def prepared(tiny) -> Path:
    BPETokenizer([]).save("tok")
    corpus = open_corpus("cats.txt")
    return prepare_cached(corpus, BPETokenizer([]), cache=Path("prepared")).folder


def test_a_prepared_dataset_is_read_as_it_is(tiny, prepared):
    config = tiny(train_data=str(prepared), eval_data="cats.txt", tokenizer="tok", vocab_size=260)
    found, _ = load(config)
    assert folder_of(found) == prepared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_data": "cats.txt", "tokenizer": "tok", "bpe_dropout": 0.1}, "comes too late"),
        (
            {"tokenizer": "tok"},
            "has no part that was held out; prepare it again with --dev_size, or write --eval_data",
        ),
        (
            {"eval_data": "cats.txt"},
            "is prepared already, without its tokenizer; name that with --tokenizer",
        ),
    ],
)
def test_a_prepared_dataset_needs_the_rest_named(tiny, prepared, changes, message):
    with pytest.raises(ConfigError, match=message):
        load(tiny(train_data=str(prepared), vocab_size=260, **changes))


def test_a_dataset_of_another_tokenizer_is_refused(tiny, prepared):
    BPETokenizer([(b"a", b"t")]).save("other")
    with pytest.raises(DataError, match="was prepared with another tokenizer"):
        load(
            tiny(train_data=str(prepared), eval_data="cats.txt", tokenizer="other", vocab_size=261)
        )


def test_the_checkpoints_tokenizer_comes_first(tiny):
    saved = BPETokenizer([(b"c", b"a")])
    found, _ = load(tiny(), saved=saved)
    assert found.tokenizer is saved
    assert found.train[0].dataset.manifest["tokenizer"] == saved.fingerprint()


def test_the_shipped_stories_have_a_floor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(SHIPPED, "toy_data")
    found, lines = load(TrainConfig())
    text = (SHIPPED / "tiny_sp_test.txt").read_text()
    assert found.floor == pytest.approx(-toy.log_likelihood(text) / len(text))
    assert lines == []


def test_the_shipped_stories_are_written_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, lines = load(TrainConfig())
    assert len(lines) == 2
    for name in ("tiny_sp_train.txt", "tiny_sp_test.txt"):
        assert Path("toy_data", name).read_bytes() == (SHIPPED / name).read_bytes()
    assert found.tokenizer.vocab_size == 384


def test_a_tiny_evaluation_text_is_refused(tiny):
    Path("empty.txt").write_text("")
    with pytest.raises(DataError, match=r"empty\.txt is empty"):
        load(tiny(eval_data="empty.txt"))


def test_evaluation_data_of_a_single_token_is_refused(tiny, prepare):
    prepare("one", [""])
    with pytest.raises(DataError) as error:
        load(tiny(eval_data="one", tokenizer="one/tokenizer", vocab_size=260))
    assert str(error.value) == (
        "the evaluation data one has 1 token(s), but it takes at least 2 to predict one; give a "
        "longer --eval_data"
    )


@pytest.mark.parametrize("windows", [{}, {"mode": "chunk", "seq_len": 8, "short": "keep"}])
@pytest.mark.parametrize("dev", [[], [""]])
def test_a_prepared_part_of_a_single_token_is_refused_by_its_name(tiny, prepare, windows, dev):
    prepare("data", ["some text"] * 9, dev=["x"], **windows)
    shutil.rmtree("data/dev")
    prepare("data/dev", dev, saved=False, **windows)
    with pytest.raises(DataError) as error:
        load(tiny(train_data="data", vocab_size=260))
    assert str(error.value) == (
        f"the held-out part data/dev has {len(dev)} token(s), but it takes at least 2 to predict "
        "one; prepare the data again with a larger --dev_size, or write --eval_data"
    )


def test_a_tokenizer_that_can_not_be_kept_is_one_line(tiny):
    Path("runs").write_text("a file")
    with pytest.raises(DataError, match=r"tokenizer-\w+ can't be written: ") as error:
        load(tiny())
    assert "\n" not in str(error.value)
