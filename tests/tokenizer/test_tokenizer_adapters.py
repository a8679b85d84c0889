import io
import json
import pickle

import pytest
import sentencepiece
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import SentencePieceTokenizer, TiktokenTokenizer, Tokenizer, train_bpe
from gptlab.tokenizer.patterns import SPLIT_PATTERNS

CORPUS = [f"the quick brown fox number {i} jumps over the lazy dog" for i in range(50)]
BPE = train_bpe(texts=CORPUS, vocab_size=330)


def make_encoding(**changes):
    ranks = {BPE.token_bytes(i): i for i in range(BPE.vocab_size - 4)}
    settings = {
        "name": "ours",
        "pat_str": SPLIT_PATTERNS["gpt4"],
        "mergeable_ranks": ranks,
        "special_tokens": {"<|endoftext|>": len(ranks) + 2},
    }
    return tiktoken.Encoding(**{**settings, **changes})


def make_model(**settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=42,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def pieces():
    return SentencePieceTokenizer(make_model(pad_id=3))


TIKTOKEN = TiktokenTokenizer(make_encoding())


class TestTiktoken:
    @given(st.text(st.characters(max_codepoint=0x24F)))
    def test_agrees_with_our_own_for_the_same_ranks(self, text):
        ids = TIKTOKEN.encode(text)
        assert ids == BPE.encode(text)
        assert TIKTOKEN.decode(ids) == text

    def test_ids(self):
        assert isinstance(TIKTOKEN, Tokenizer)
        assert TIKTOKEN.vocab_size == BPE.vocab_size - 1
        assert TIKTOKEN.eos_id == TIKTOKEN.vocab_size - 1
        assert (TIKTOKEN.pad_id, TIKTOKEN.unk_id, TIKTOKEN.bos_id) == (None, None, None)
        assert TiktokenTokenizer(make_encoding(special_tokens={})).eos_id is None

    def test_special_tokens_are_plain_text_unless_allowed(self):
        text = "fox<|endoftext|>"
        assert TIKTOKEN.eos_id not in TIKTOKEN.encode(text)
        assert TIKTOKEN.encode(text, allow_special=True)[-1] == TIKTOKEN.eos_id
        assert TIKTOKEN.decode(TIKTOKEN.encode(text, allow_special=True)) == text

    def test_encode_batch(self):
        assert TIKTOKEN.encode_batch(iter(CORPUS)) == [TIKTOKEN.encode(text) for text in CORPUS]

    def test_lone_surrogates_are_replaced(self):
        assert TIKTOKEN.decode(TIKTOKEN.encode("a\ud800b")) == "a\ufffdb"

    def test_ids_outside_the_vocabulary_and_in_its_gaps(self):
        for bad in (-1, TIKTOKEN.vocab_size, TIKTOKEN.eos_id - 1, "a"):
            with pytest.raises(TokenizerError, match=f"id {bad!r} "):
                TIKTOKEN.decode([65, bad])

    def test_save_and_load(self, tmp_path):
        TIKTOKEN.save(tmp_path / "new")
        loaded = TiktokenTokenizer.load(tmp_path / "new")
        assert loaded.fingerprint() == TIKTOKEN.fingerprint()
        assert loaded.encode_batch(CORPUS) == TIKTOKEN.encode_batch(CORPUS)
        assert loaded.eos_id == TIKTOKEN.eos_id
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["tiktoken.json"]

    def test_fingerprint_follows_what_decides_encode(self):
        others = [
            make_encoding(pat_str=SPLIT_PATTERNS["gpt2"]),
            make_encoding(special_tokens={}),
            make_encoding(mergeable_ranks={bytes([i]): i for i in range(256)}),
        ]
        prints = {TiktokenTokenizer(encoding).fingerprint() for encoding in others}
        assert len(prints | {TIKTOKEN.fingerprint()}) == 4
        assert TiktokenTokenizer(make_encoding(name="x")).fingerprint() == TIKTOKEN.fingerprint()

    @pytest.mark.parametrize(
        "changes",
        [
            {"pattern": "("},
            {"pattern": None},
            {"ranks": {}},
            {"ranks": None},
            {"ranks": {"?": 1}},
            {"special_tokens": {"<|endoftext|>": 0}},
            {"special_tokens": {"<|endoftext|>": -1}},
            {"special_tokens": []},
        ],
        ids=str,
    )
    def test_changed_files_are_refused(self, tmp_path, changes):
        TIKTOKEN.save(tmp_path)
        file = tmp_path / "tiktoken.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        with pytest.raises(TokenizerError, match=r"tiktoken\.json"):
            TiktokenTokenizer.load(tmp_path)

    def test_names_that_can_not_be_had(self, monkeypatch):
        with pytest.raises(TokenizerError, match=r"'nope'.*gpt2"):
            TiktokenTokenizer.from_name("nope")

        def offline(name):
            raise ConnectionError(name)

        monkeypatch.setattr(tiktoken, "get_encoding", offline)
        with pytest.raises(TokenizerError, match=r"can't fetch.*'gpt2'.*folder"):
            TiktokenTokenizer.from_name("gpt2")

    def test_a_panic_of_the_core_is_an_error(self, monkeypatch):
        class PanicException(BaseException):
            """Named as pyo3 names what it raises."""

        def panic(*_):
            raise PanicException("StackOverflow")

        monkeypatch.setattr(tiktoken.Encoding, "encode_ordinary", panic)
        with pytest.raises(TokenizerError, match="whitespace"):
            TIKTOKEN.encode("text")

    def test_pickle(self):
        twin = pickle.loads(pickle.dumps(TIKTOKEN))
        assert twin.encode(CORPUS[0]) == TIKTOKEN.encode(CORPUS[0])


class TestSentencePiece:
    def test_ids(self, pieces):
        assert isinstance(pieces, Tokenizer)
        assert pieces.vocab_size == 42
        special = (pieces.pad_id, pieces.unk_id, pieces.bos_id, pieces.eos_id)
        assert special == (3, 0, 1, 2)

    def test_missing_special_ids_are_none(self):
        bare = SentencePieceTokenizer(make_model(bos_id=-1, eos_id=-1))
        assert (bare.pad_id, bare.unk_id, bare.bos_id, bare.eos_id) == (None, 0, None, None)
        assert bare.decode(bare.encode("</s> fox", allow_special=True))

    def test_text_of_the_corpus_round_trips(self, pieces):
        assert [pieces.decode(ids) for ids in pieces.encode_batch(iter(CORPUS))] == CORPUS
        assert pieces.encode("") == []
        assert pieces.decode([]) == ""

    def test_special_tokens_are_plain_text_unless_allowed(self, pieces):
        assert pieces.eos_id not in pieces.encode("fox</s>")
        ids = pieces.encode("<s>fox</s>", allow_special=True)
        assert ids == [pieces.bos_id, *pieces.encode("fox"), pieces.eos_id]
        assert pieces.decode(ids) == "fox"

    def test_odd_strings_have_ids(self, pieces):
        for text in ("\ud800", "\0", "中文🙂", " " * 10_000):
            assert all(0 <= i < pieces.vocab_size for i in pieces.encode(text))

    def test_ids_outside_the_vocabulary(self, pieces):
        for bad in (-1, 42, 10**30, "a"):
            with pytest.raises(TokenizerError, match="vocab_size=42"):
                pieces.decode([5, bad])

    def test_save_and_load(self, pieces, tmp_path):
        pieces.save(tmp_path / "new")
        loaded = SentencePieceTokenizer.load(tmp_path / "new")
        assert loaded.fingerprint() == pieces.fingerprint()
        assert loaded.encode_batch(CORPUS) == pieces.encode_batch(CORPUS)
        assert SentencePieceTokenizer(make_model()).fingerprint() != pieces.fingerprint()

    @pytest.mark.parametrize("content", [b"", b"no model"])
    def test_what_is_no_model_is_refused(self, tmp_path, content):
        (tmp_path / "x.model").write_bytes(content)
        for model in (content, tmp_path / "x.model"):
            with pytest.raises(TokenizerError, match="SentencePiece model"):
                SentencePieceTokenizer(model)
        with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
            SentencePieceTokenizer.load(tmp_path)

    def test_pickle(self, pieces):
        assert pickle.loads(pickle.dumps(pieces)).encode(CORPUS[0]) == pieces.encode(CORPUS[0])
