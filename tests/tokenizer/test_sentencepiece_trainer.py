import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptlab.errors import DataError, TokenizerError
from gptlab.tokenizer import Tokenizer
from gptlab.tokenizer.adapters import SentencePieceTokenizer, train_sentencepiece
from gptlab.tokenizer.base import SPECIAL_TOKENS

ODD = "\0\t\n\r\v\x1f\x85 \u2581\u2585\u2047\u200b\u2028\ufeff\ufffd\ufffe🙂e\u0301中é"
CORPUS = [f"the quick\n\n\tbrown  fox number {i}\r\n    jumps {ODD} over it\n" for i in range(50)]
MODEL_TYPES = ("unigram", "bpe")
SPECIAL = ["<|user|>", "▲"]
TRAINED = {
    kind: train_sentencepiece(CORPUS, vocab_size=312, model_type=kind, special_tokens=SPECIAL)
    for kind in MODEL_TYPES
}
SPACELESS = train_sentencepiece(["中文字" * 40], vocab_size=265)
TOKENIZERS = [*TRAINED.values(), SPACELESS]
parts = st.characters(codec="utf-8") | st.sampled_from(
    [*ODD, "the", "fox", "  ", "<0x41>", "<0xE2>", "<EOS>", *SPECIAL]
)
texts = st.lists(parts).map("".join)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["unigram", "bpe", "spaceless"])
class TestEveryTextComesBack:
    @given(texts)
    @example(" " * 10_000)
    @example("中" * 10_000)
    @example("".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)])))
    def test_as_it_was(self, tokenizer, text):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        array = tokenizer.encode_to_array(text)
        assert (array.dtype, array.tolist()) == (np.uint16, ids)
        assert not {*range(4)} & {*ids}

    def test_but_lone_surrogates(self, tokenizer):
        assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("kind", MODEL_TYPES)
class TestVocabulary:
    def test_ids(self, kind):
        tokenizer = TRAINED[kind]
        assert isinstance(tokenizer, Tokenizer)
        assert tokenizer.vocab_size == 312
        special = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
        assert special == (0, 1, 2, 3)
        names = "".join([*SPECIAL_TOKENS, *SPECIAL])
        assert tokenizer.encode(names, allowed_special="all") == [*range(6)]
        assert not {*range(6)} & {*tokenizer.encode(names)}
        assert tokenizer.decode(tokenizer.encode(names)) == names

    def test_frequent_words_and_runs_of_spaces_are_one_token(self, kind):
        texts = ["    brown fox\n" * 200]
        tokenizer = train_sentencepiece(texts, vocab_size=_most(texts, kind), model_type=kind)
        assert [len(tokenizer.encode(text)) for text in (" brown", " fox", "   ")] == [1, 1, 1]

    def test_save_and_load(self, kind, tmp_path):
        TRAINED[kind].save(tmp_path)
        loaded = SentencePieceTokenizer.load(tmp_path)
        assert loaded.fingerprint() == TRAINED[kind].fingerprint()
        assert loaded.decode(loaded.encode(ODD)) == ODD


def test_same_texts_same_bytes_in_another_process():
    code = (
        f"from {Path(__file__).stem} import TRAINED\n"
        "print(*(tokenizer.fingerprint() for tokenizer in TRAINED.values()))"
    )
    twin = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert twin.stdout.split() == [tokenizer.fingerprint() for tokenizer in TRAINED.values()]


@pytest.mark.parametrize("kind", MODEL_TYPES)
@pytest.mark.parametrize(
    "filler", ["ab " * 3000, "中" * 10_000, "ab\u2585"], ids=["long", "spaceless", "reserved"]
)
def test_no_text_is_dropped(kind, filler):
    """However long, and whatever is in it: words at both ends and in the middle are learned."""
    words = [" wombat", " koala", " dingo"]
    texts = [filler.join(word * 50 for word in words)]
    tokenizer = train_sentencepiece(texts, vocab_size=_most(texts, kind), model_type=kind)
    assert [len(tokenizer.encode(word)) for word in words] == [1, 1, 1]


def _most(texts, kind):
    """The largest possible vocabulary, from the message that names it."""
    with pytest.raises(TokenizerError) as error:
        train_sentencepiece(texts, vocab_size=100_000, model_type=kind)
    return int(re.search(r"only (\d+) tokens", str(error.value))[1])


@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_what_is_possible_is_said_and_true(kind):
    lines = [text.replace("\n", " ") for text in CORPUS]
    most = _most(lines, kind)
    for vocab_size in (-1, 0, 3, 100):
        with pytest.raises(TokenizerError, match=f"vocab_size={vocab_size} is too small") as error:
            train_sentencepiece(lines, vocab_size=vocab_size, model_type=kind)
        least = int(re.search(r"already make (\d+)", str(error.value))[1])
    for vocab_size in (least, most):
        tokenizer = train_sentencepiece(lines, vocab_size=vocab_size, model_type=kind)
        assert tokenizer.vocab_size == vocab_size
    with pytest.raises(TokenizerError, match=f"vocab_size={most + 1} is too large"):
        train_sentencepiece(lines, vocab_size=most + 1, model_type=kind)
    with pytest.raises(TokenizerError, match=f"vocab_size={least - 1} is too small"):
        train_sentencepiece(lines, vocab_size=least - 1, model_type=kind)


def test_whatever_else_the_library_refuses_is_one_line():
    for options in ({"model_type": "nope"}, {"special_tokens": ["<0x41>"]}):
        with pytest.raises(TokenizerError, match=r"vocab_size=312\b.*: change") as error:
            train_sentencepiece(CORPUS, vocab_size=312, **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("texts", [[], "", ["", "\n\r\n"], ["\0", "\u2581\u2585"]], ids=repr)
def test_an_empty_corpus(texts):
    with pytest.raises(DataError, match="empty"):
        train_sentencepiece(texts, vocab_size=312)


@pytest.mark.parametrize("names", [[""], ["<EOS>"], ["a\nb"], ["\0"], ["\ud800"], ["<A>", "<A>"]])
def test_impossible_special_tokens(names):
    with pytest.raises(TokenizerError, match="special token") as error:
        train_sentencepiece(CORPUS, vocab_size=312, special_tokens=names)
    assert repr(names[-1]) in str(error.value)


@given(st.lists(st.text("ab ,\"'<>|中▲\u2585", min_size=1), unique=True, max_size=4))
@settings(max_examples=20)
def test_special_tokens_may_have_any_printable_name(names):
    tokenizer = train_sentencepiece(CORPUS, vocab_size=312, model_type="bpe", special_tokens=names)
    ids = [tokenizer.encode(name, allowed_special=[name]) for name in names]
    assert ids == [[i] for i in range(4, 4 + len(names))]
    assert all(tokenizer.decode(tokenizer.encode(name)) == name for name in names)


def test_a_lone_surrogate_to_learn_from():
    assert train_sentencepiece("a\ud800b", vocab_size=264).encode("\ufffd") != []


def test_standard_error_is_for_progress(capfd):
    for progress in (False, True, False):
        train_sentencepiece(CORPUS, vocab_size=312, progress=progress)
        assert bool(capfd.readouterr().err) is progress
    with pytest.raises(TokenizerError):
        train_sentencepiece(CORPUS, vocab_size=100_000)
    assert capfd.readouterr().err == ""


def test_an_error_of_the_reader_stays_what_it_is():
    def unreadable():
        yield "text"
        raise DataError("line 2 is no text")

    with pytest.raises(DataError, match="line 2"):
        train_sentencepiece(unreadable(), vocab_size=312)


def test_ctrl_c_ends_the_wait(monkeypatch):
    workers, ended = [], threading.Event()

    def train(**_):
        workers.append(threading.current_thread())
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        ended.wait(5)

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", train)
    try:
        with pytest.raises(KeyboardInterrupt):
            train_sentencepiece(CORPUS, vocab_size=312)
    finally:
        ended.set()
    # Only a thread of its own can be left to itself, and only a daemon lets the process end.
    assert [worker.daemon for worker in workers] == [True]
    assert workers != [threading.main_thread()]
