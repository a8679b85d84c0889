import io
import pickle

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import SentencePieceTokenizer, Tokenizer

CORPUS = [f"the quick brown fox number {i} jumps over the lazy dog" for i in range(50)]


def make_model(**settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        minloglevel=2,
        **{"vocab_size": 42, **settings},
    )
    return model.getvalue()


PIECES = SentencePieceTokenizer(make_model(pad_id=3))
WITH_BYTES = {"byte_fallback": True, "vocab_size": 300}
AS_IT_IS = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
MODELS = {
    "default": make_model(),
    "spaces as they are": make_model(**AS_IT_IS, add_dummy_prefix=False),
    "bytes": make_model(**WITH_BYTES),
    "bytes, spaces as they are but for a first one": make_model(**WITH_BYTES, **AS_IT_IS),
}
OTHERS = {
    name: (SentencePieceTokenizer(model), sentencepiece.SentencePieceProcessor(model_proto=model))
    for name, model in MODELS.items()
}


def test_ids():
    assert isinstance(PIECES, Tokenizer)
    assert PIECES.vocab_size == 42
    assert (PIECES.pad_id, PIECES.unk_id, PIECES.bos_id, PIECES.eos_id) == (3, 0, 1, 2)


def test_missing_special_ids_are_none():
    bare = SentencePieceTokenizer(make_model(bos_id=-1, eos_id=-1))
    assert (bare.pad_id, bare.unk_id, bare.bos_id, bare.eos_id) == (None, 0, None, None)
    assert bare.decode(bare.encode("</s> fox", allowed_special="all"))


def test_text_of_the_corpus_round_trips():
    assert [PIECES.decode(ids) for ids in PIECES.encode_batch(iter(CORPUS))] == CORPUS
    assert PIECES.encode("") == []
    assert PIECES.decode([]) == ""


@pytest.mark.parametrize("model", OTHERS)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("the fox\u2581")))
@example("a\u2581b")
def test_models_of_others_give_the_ids_that_the_library_gives(model, text):
    tokenizer, library = OTHERS[model]
    assert tokenizer.encode(text) == library.encode(text)


def test_special_tokens_are_plain_text_unless_allowed():
    assert not {PIECES.eos_id, PIECES.bos_id} & {*PIECES.encode("<s>fox</s>")}
    ids = PIECES.encode("<s>fox</s>", allowed_special="all")
    assert ids == [PIECES.bos_id, *PIECES.encode("fox"), PIECES.eos_id]
    assert PIECES.decode(ids) == "fox"
    only_end = PIECES.encode("<s>fox</s>", allowed_special={"</s>"})
    assert only_end == [*PIECES.encode("<s>fox"), PIECES.eos_id]
    assert PIECES.encode("<unk>", allowed_special=["<unk>"]) == [PIECES.unk_id]


def test_the_longest_special_token_counts():
    names = ["<a>", "<a>.", "<a>.*"]
    tokenizer = SentencePieceTokenizer(make_model(control_symbols=names, vocab_size=45))
    ids = tokenizer.encode("<a>.*<a>fox<a>.", allowed_special=names)
    assert ids == [5, 3, *tokenizer.encode("fox"), 4]
    assert tokenizer.encode("<a>.", allowed_special=["<a>"]) == [3, *tokenizer.encode(".")]


def test_disallowed_special_tokens():
    with pytest.raises(TokenizerError, match="'</s>'"):
        PIECES.encode("<s>fox</s>", allowed_special=["<s>"], disallowed_special="all")
    assert PIECES.encode("fox", disallowed_special="all") == PIECES.encode("fox")


def test_dropout_is_refused():
    with pytest.raises(TokenizerError, match=r"dropout=0\.1"):
        PIECES.encode("fox", dropout=0.1, seed=1)
    assert PIECES.encode("fox", dropout=0.0, seed=1) == PIECES.encode("fox")


@given(st.text(st.characters() | st.sampled_from("fox \ud800")))
@example("")
@example("fox</s>")
def test_encode_to_array_is_encode(text):
    array = PIECES.encode_to_array(text)
    assert array.dtype == np.uint16
    assert array.tolist() == PIECES.encode(text)
    arrays = PIECES.encode_to_arrays([text, "fox"])
    assert [ids.tolist() for ids in arrays] == PIECES.encode_batch([text, "fox"])


def test_odd_strings_have_ids():
    for text in ("\ud800", "\0", "中文🙂", " " * 10_000):
        assert all(0 <= i < PIECES.vocab_size for i in PIECES.encode(text))


def test_ids_outside_the_vocabulary():
    for bad in (-1, 42, 10**30, "a"):
        with pytest.raises(TokenizerError, match="vocab_size=42"):
            PIECES.decode([5, bad])


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("the fox\u2581")))
@example("\u2581")
def test_the_bytes_of_tokens_make_the_text(text):
    tokenizer, _ = OTHERS["bytes, spaces as they are but for a first one"]
    # The space that this model puts before a text is taken away by whoever decodes all of it.
    data = b"".join(map(tokenizer.token_bytes, tokenizer.encode("a" + text)))
    assert data == (" a" + text.replace("\u2581", " ")).encode()


def test_the_bytes_of_special_and_of_foreign_ids():
    names = [PIECES.token_bytes(i) for i in range(4)]
    assert names == [b"<unk>", b"<s>", b"</s>", b"<pad>"]
    for bad in (-1, 42, "a"):
        with pytest.raises(TokenizerError, match="vocab_size=42"):
            PIECES.token_bytes(bad)


def test_save_and_load(tmp_path):
    PIECES.save(tmp_path / "new")
    loaded = SentencePieceTokenizer.load(tmp_path / "new")
    assert loaded.fingerprint() == PIECES.fingerprint()
    assert loaded.encode_batch(CORPUS) == PIECES.encode_batch(CORPUS)
    assert SentencePieceTokenizer(make_model()).fingerprint() != PIECES.fingerprint()


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "x.model").write_bytes(content)
    for model in (content, tmp_path / "x.model"):
        with pytest.raises(TokenizerError, match="SentencePiece model"):
            SentencePieceTokenizer(model)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        SentencePieceTokenizer.load(tmp_path)


def test_pickle():
    assert pickle.loads(pickle.dumps(PIECES)).encode(CORPUS[0]) == PIECES.encode(CORPUS[0])
