import json

import pytest
import tiktoken
import tokenizers
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, trainers

from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer, load_tokenizer, train_bpe
from gptlab.tokenizer.adapters import TiktokenTokenizer
from gptlab.tokenizer.lower_case import lower_cased

CORPUS = "The Cat's NAÏVE 🙂 ÀÉ aaaa baaab, 12345 cats!\r\n\n\tTHE end. ΣΑΣ the cat's naïve  " * 3
TOKENIZER = train_bpe(texts=[CORPUS, CORPUS.lower()], vocab_size=330)
texts = st.text(st.characters(max_codepoint=0x24F) | st.sampled_from(CORPUS + "ΩΣςſ\u2028\u0301"))


def lower(text):
    """Character by character, so that a sigma at the end of a word is like any."""
    return "".join(character.lower() for character in text)


@given(texts)
@example("İstanbul ΣΑΣ <EOS> <eos>")
def test_it_encodes_the_text_in_lower_case(text):
    lowered = TOKENIZER.with_lower_case()
    assert lowered.encode(text) == TOKENIZER.encode(lower(text))
    assert lowered.decode(lowered.encode(text)) == lower(text)


def test_long_texts_and_arrays_too():
    lowered = TOKENIZER.with_lower_case()
    assert not lowered.divisible
    assert lowered.encode_to_array(CORPUS * 50).tolist() == TOKENIZER.encode(lower(CORPUS * 50))


def test_special_tokens_keep_their_names():
    lowered = TOKENIZER.with_lower_case().with_special_tokens(["<|USER|>"])
    ids = lowered.encode("<|USER|>THE<EOS><eos>", allowed_special="all")
    special = lowered.special_tokens
    assert ids == [
        special["<|USER|>"],
        *TOKENIZER.encode("the"),
        special["<EOS>"],
        *TOKENIZER.encode("<eos>"),
    ]


def test_only_what_encodes_differently_has_another_fingerprint():
    lowered = TOKENIZER.with_lower_case()
    assert lowered != TOKENIZER
    assert lowered.fingerprint() != TOKENIZER.fingerprint()
    assert lowered.with_lower_case() == lowered
    assert lowered.vocab_size == TOKENIZER.vocab_size


@pytest.mark.parametrize("normalizer", [None, "NFC", "Lowercase", "sequence"])
def test_it_is_saved_and_hugging_face_honours_it(normalizer, tmp_path):
    tokenizer = TOKENIZER if normalizer is None else foreign(normalizer, tmp_path / "foreign")
    lowered = tokenizer.with_lower_case()
    lowered.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded == lowered
    assert loaded.fingerprint() == lowered.fingerprint()
    assert not (tmp_path / "saved" / "tokenizer.tiktoken").exists()
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved"))

    @given(texts)
    @example("İSTANBUL E\u0301 ΣΑΣ")
    def check(text):
        ids = lowered.encode(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids

    check()


def foreign(normalizer, folder):
    """A tokenizer.json with a normalizer of its own."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.normalizer = {
        "NFC": normalizers.NFC(),
        "Lowercase": normalizers.Lowercase(),
        "sequence": normalizers.Sequence([normalizers.Lowercase(), normalizers.NFKC()]),
    }[normalizer]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([CORPUS], trainer)
    folder.mkdir()
    document = json.loads(tokenizer.to_str())
    document["decoder"] = {**document["pre_tokenizer"]}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    return BPETokenizer.load(folder)


def test_a_file_without_a_normalizer_gets_one(tmp_path):
    TOKENIZER.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    del document["normalizer"]
    path.write_text(json.dumps(document))
    BPETokenizer.load(tmp_path).with_lower_case().save(tmp_path)
    assert json.loads(path.read_text())["normalizer"] == {"type": "Lowercase"}


def test_other_kinds_are_refused():
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(TokenizerError, match="TiktokenTokenizer can't make text lower case"):
        lower_cased(TiktokenTokenizer(encoding))
    assert lower_cased(TOKENIZER) == TOKENIZER.with_lower_case()
