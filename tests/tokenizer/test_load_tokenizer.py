import io

import pytest
import sentencepiece
import tiktoken

from gptlab.errors import TokenizerError
from gptlab.tokenizer import (
    BPETokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    load_tokenizer,
    train_bpe,
)


def make_sentencepiece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["some words and some more words"] * 9),
        model_writer=model,
        vocab_size=15,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())


def make_encoding(name="ours"):
    ranks = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding(
        name, pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 256}
    )


MAKE = {
    "default": lambda: train_bpe(texts=["some words"], vocab_size=262),
    "tiktoken": lambda: TiktokenTokenizer(make_encoding()),
    "sentencepiece": make_sentencepiece,
}
CLASSES = {
    "default": BPETokenizer,
    "tiktoken": TiktokenTokenizer,
    "sentencepiece": SentencePieceTokenizer,
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_saved_folder_is_recognised(tmp_path, kind):
    tokenizer = MAKE[kind]()
    tokenizer.save(tmp_path)
    for loaded in (load_tokenizer(tmp_path), load_tokenizer(str(tmp_path), kind=kind)):
        assert type(loaded) is CLASSES[kind]
        assert loaded.fingerprint() == tokenizer.fingerprint()
    for other in MAKE.keys() - {kind}:
        with pytest.raises(TokenizerError, match=f"kind {kind}, not {other}"):
            load_tokenizer(tmp_path, kind=other)


def test_a_folder_with_several_kinds_needs_the_kind(tmp_path):
    for make in MAKE.values():
        make().save(tmp_path)
    with pytest.raises(TokenizerError, match="kind=default or kind=tiktoken"):
        load_tokenizer(tmp_path)
    for kind, cls in CLASSES.items():
        assert type(load_tokenizer(tmp_path, kind=kind)) is cls


def test_sentencepiece_models_of_any_name(tmp_path):
    make_sentencepiece().save(tmp_path)
    (tmp_path / "tokenizer.model").rename(tmp_path / "words.model")
    for source in (tmp_path, tmp_path / "words.model", str(tmp_path / "words.model")):
        assert type(load_tokenizer(source)) is SentencePieceTokenizer
    (tmp_path / "more.model").touch()
    with pytest.raises(TokenizerError, match=r"more\.model, words\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(TokenizerError, match="not default"):
        load_tokenizer(tmp_path / "words.model", kind="default")


def test_gpt2_as_two_files(tmp_path):
    tokenizer = train_bpe(texts=["some words 's"], vocab_size=264, pattern="gpt2")
    tokenizer = BPETokenizer(
        tokenizer.merges, pattern="gpt2", special_tokens=["<|endoftext|>", "<|x|>"]
    )
    tokenizer.save(tmp_path)
    for name in ("tokenizer.json", "tokenizer.tiktoken"):
        (tmp_path / name).unlink()
    loaded = load_tokenizer(tmp_path)
    assert loaded.special_tokens == {"<|endoftext|>": loaded.eos_id}
    text = "some words<|endoftext|>'s<|x|>"
    ids = tokenizer.encode(text, allowed_special=["<|endoftext|>"])
    assert loaded.encode(text, allowed_special="all") == ids
    assert loaded.decode(ids) == text
    (tmp_path / "merges.txt").write_text("#version: 0.2\ns o me\n")
    with pytest.raises(TokenizerError, match=r"merges\.txt.*'s o me'"):
        load_tokenizer(tmp_path)


def test_files_of_ranks(tmp_path):
    tokenizer = train_bpe(texts=["some words"], vocab_size=262)
    tokenizer.save(tmp_path / "saved")
    ranks = (tmp_path / "saved" / "tokenizer.tiktoken").read_bytes()
    (tmp_path / "my.tiktoken").write_bytes(ranks)
    assert load_tokenizer(tmp_path) == tokenizer
    assert load_tokenizer(tmp_path / "my.tiktoken", kind="default") == tokenizer
    assert load_tokenizer(tmp_path / "saved" / "tokenizer.json") == tokenizer
    (tmp_path / "more.tiktoken").write_bytes(ranks)
    with pytest.raises(TokenizerError, match=r"more\.tiktoken, my\.tiktoken.*path of one"):
        load_tokenizer(tmp_path)


def test_tiktoken_by_name(monkeypatch):
    monkeypatch.setattr(tiktoken, "get_encoding", make_encoding)
    for tokenizer in (load_tokenizer("tiktoken:gpt2"), load_tokenizer("gpt2", kind="tiktoken")):
        assert type(tokenizer) is TiktokenTokenizer
        assert tokenizer.eos_id == 256
    with pytest.raises(TokenizerError, match="not sentencepiece"):
        load_tokenizer("tiktoken:gpt2", kind="sentencepiece")


def test_what_is_no_tokenizer(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("text")
    for source in (tmp_path, file, tmp_path / "missing", "gpt2"):
        with pytest.raises(TokenizerError, match="gptlab-tokenize --train") as caught:
            load_tokenizer(source)
        assert str(source) in str(caught.value)
        assert "\n" not in str(caught.value)
