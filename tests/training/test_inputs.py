"""What a run reads, and what it says about what nobody named."""

import shutil
from pathlib import Path

import pytest

from gptlab.config import TrainConfig
from gptlab.data import open_corpus, toy, write_tokens
from gptlab.errors import ConfigError, DataError, TokenizerError
from gptlab.tokenizer import BPETokenizer
from gptlab.training import inputs
from gptlab.training.inputs import load_inputs

SHIPPED = Path(__file__).parents[2] / "toy_data"


def load(config: TrainConfig, saved=None):
    lines: list[str] = []
    return load_inputs(config, saved=saved, say=lines.append), lines


def test_a_text_alone_gets_a_tokenizer_and_a_held_out_part(tiny):
    found, lines = load(tiny())
    assert found.tokenizer.vocab_size == 270
    whole = found.train.manifest["characters"] + found.evaluation.manifest["characters"]
    assert whole == len(Path("cats.txt").read_text())
    assert any("evaluation text: the last 10% of" in line for line in lines)
    assert any("trained a tokenizer of 270 tokens (--tokenizer" in line for line in lines)
    assert found.floor is None


def test_the_tokenizer_never_sees_the_held_out_part(tiny):
    Path("cats.txt").write_text("ab ab ab\n" * 90 + "xy xy xy\n" * 10)
    found, _ = load(tiny(vocab_size=261))
    assert found.tokenizer.merges == [(b"a", b"b")]


def test_the_second_time_nothing_is_made(tiny, monkeypatch):
    first, _ = load(tiny())

    def again(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(inputs, "train_bpe", again)
    second, lines = load(tiny())
    assert second.tokenizer.fingerprint() == first.tokenizer.fingerprint()
    assert second.train.folder == first.train.folder
    assert not any("tokenizer" in line for line in lines)


def test_a_tokenizer_that_was_half_saved_is_made_again(tiny, monkeypatch):
    def killed(self: BPETokenizer, folder: Path) -> None:
        Path(folder).mkdir(parents=True)
        (Path(folder) / "tokenizer.json").write_text("{")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BPETokenizer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            load(tiny())
    assert load(tiny())[0].tokenizer.vocab_size == 270


def test_a_text_with_too_few_merges_is_told(tiny):
    Path("cats.txt").write_text("ab\n" * 50)
    found, lines = load(tiny(vocab_size=5000))
    assert found.tokenizer.vocab_size < 300
    assert any("--tgt_vocab_size 5000 can't be reached" in line for line in lines)


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
    _, lines = load(tiny(train_data=str(folder), eval_data="cats.txt"))
    assert any("left out: 1 file(s) under" in line for line in lines)


@pytest.fixture
def prepared(tiny) -> Path:
    BPETokenizer([]).save("tok")
    write_tokens(open_corpus("cats.txt"), BPETokenizer([]), Path("prepared"))
    return Path("prepared")


def test_a_prepared_dataset_is_read_as_it_is(tiny, prepared):
    config = tiny(train_data=str(prepared), eval_data="cats.txt", tokenizer="tok", vocab_size=260)
    found, _ = load(config)
    assert found.train.folder == prepared


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "tok"}, "is prepared already and can't be split; write --eval_data"),
        ({"eval_data": "cats.txt"}, "is prepared already; name its tokenizer with --tokenizer"),
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
    assert found.train.manifest["tokenizer"] == saved.fingerprint()


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
