import base64
import random

import pytest
import tiktoken
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer, train_bpe
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS

CORPUS = "The cat's naïve 🙂 aaaa baaab, 12345 CATS!\r\n\n\tThe 中文字 end. HTTPServer/v2\n\n " * 3
PIECES = [*CORPUS, *"ſ\u2028\u0301Éß²\0", "'LL", "  ", "<EOS>", "<|endoftext|>", "<|x|>"]
texts = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")


def write_ranks(path, ranks):
    lines = [base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()]
    path.write_bytes(b"".join(lines))
    return path


@pytest.mark.parametrize("pattern", SPLIT_PATTERNS)
def test_tiktoken_gives_the_same_ids(tmp_path, pattern):
    tok = train_bpe(texts=[CORPUS], vocab_size=295, pattern=pattern)
    tok = tok.with_special_tokens(["<|x|>"])
    tok.save(tmp_path)
    encoding = tiktoken.Encoding(
        "mine",
        pat_str=SPLIT_PATTERNS[tok.pattern],
        mergeable_ranks=tiktoken.load.load_tiktoken_bpe(str(tmp_path / "tokenizer.tiktoken")),
        special_tokens=tok.special_tokens,
    )

    @given(texts)
    def check(text):
        ids = tok.encode(text, allowed_special="all")
        assert encoding.encode(text, allowed_special="all") == ids
        assert encoding.encode_ordinary(text) == tok.encode(text)
        assert encoding.decode(ids) == tok.decode(ids)

    check()
    file = tmp_path / "tokenizer.tiktoken"
    special = list(tok.special_tokens)
    assert BPETokenizer.load_tiktoken(file, pattern=pattern, special_tokens=special) == tok


def test_merges_that_tiktoken_would_not_follow_have_no_file(tmp_path):
    BPETokenizer([(b"b", b"c")]).save(tmp_path)
    assert (tmp_path / "tokenizer.tiktoken").exists()
    BPETokenizer([(b"b", b"c"), (b"a", b"b"), (b"ab", b"c")]).save(tmp_path)
    assert not (tmp_path / "tokenizer.tiktoken").exists()


def test_ranks_of_any_kind(tmp_path):
    """Bytes in another order, gaps, and special tokens between the ranks."""
    trained = train_bpe(texts=[CORPUS], vocab_size=295)
    order = random.Random(0).sample(range(256), 256)
    ranks = {bytes([byte]): rank for rank, byte in enumerate(order)}
    for number, merge in enumerate(trained.merges):
        ranks[b"".join(merge)] = 300 + 3 * number
    special = {"<|endoftext|>": 301, "<|x|>": 1000}
    tok = BPETokenizer.load_tiktoken(
        write_ranks(tmp_path / "my.tiktoken", ranks), pattern="gpt2", special_tokens=special
    )
    encoding = tiktoken.Encoding(
        "same", pat_str=SPLIT_PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens=special
    )

    @given(texts)
    def check(text):
        ids = encoding.encode(text, allowed_special="all")
        assert tok.encode(text, allowed_special="all") == ids
        assert tok.decode(ids) == text

    check()
    assert (tok.eos_id, tok.pad_id, tok.vocab_size) == (301, None, 1001)
    tok.save(tmp_path / "saved")
    assert BPETokenizer.load(tmp_path / "saved") == tok
    with pytest.raises(TokenizerError, match="id 299 "):
        tok.decode([299])


@pytest.mark.parametrize("name", ["r50k_base", "p50k_base", "cl100k_base", "o200k_base"])
def test_known_files(tmp_path, monkeypatch, name):
    tok = train_bpe(texts=[CORPUS], vocab_size=295)
    ranks = BYTES | {b"".join(merge): 256 + i for i, merge in enumerate(tok.merges)}
    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: ranks)
    settings = getattr(openai_public, name)()
    settings.pop("explicit_n_vocab", None)
    encoding = tiktoken.Encoding(**settings)
    tok = BPETokenizer.load(write_ranks(tmp_path / f"{name}.tiktoken", ranks))
    assert tok.special_tokens == settings["special_tokens"]

    @given(texts)
    def check(text):
        assert tok.encode(text, allowed_special="all") == encoding.encode(
            text, allowed_special="all"
        )

    check()


def test_other_names_are_read_as_gptlab_writes(tmp_path):
    tok = train_bpe(texts=[CORPUS], vocab_size=295)
    tok.save(tmp_path)
    assert BPETokenizer.load(tmp_path / "tokenizer.tiktoken") == tok


@pytest.mark.parametrize(
    ("ranks", "problem"),
    [
        (BYTES | {b"abc": 256}, r"b'abc' of rank 256 is made of 3 tokens"),
        (BYTES | {b"ab": 1}, "the id 1 stands for both"),
        ({b"a": 0}, "the byte 0x00 has no rank"),
    ],
    ids=["three parts", "one id twice", "no byte"],
)
def test_ranks_are_checked(tmp_path, ranks, problem):
    file = write_ranks(tmp_path / "my.tiktoken", ranks)
    with pytest.raises(TokenizerError, match=problem) as caught:
        BPETokenizer.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("line", [b"YQ==", b"?? 3", b"YQ== x", b"YQ== 1 2"])
def test_garbled_lines_are_named(tmp_path, line):
    file = tmp_path / "my.tiktoken"
    file.write_bytes(b"IQ== 0\n\n" + line + b"\n")
    with pytest.raises(TokenizerError, match=r"my\.tiktoken.*line 3"):
        BPETokenizer.load(file)


def test_patterns_are_checked(tmp_path):
    file = write_ranks(tmp_path / "my.tiktoken", BYTES)
    assert BPETokenizer.load_tiktoken(file, pattern=r"\s|\S+").pattern == r"\s|\S+"
    with pytest.raises(TokenizerError, match=r"pattern '\('"):
        BPETokenizer.load_tiktoken(file, pattern="(")
