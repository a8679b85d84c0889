"""What `save_for_transformers` writes, as AutoTokenizer opens it."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tiktoken
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from tiktoken_ext.openai_public import r50k_pat_str

from gptlab.errors import TokenizerError
from gptlab.tokenizer import SentencePieceTokenizer, TiktokenTokenizer, load_tokenizer, train_bpe
from gptlab.tokenizer.adapters import train_sentencepiece
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS
from gptlab.tokenizer.formats.definition import AddedToken
from gptlab.tokenizer.formats.sentencepiece_file import Kind, Model, Piece, read_model, write_model
from gptlab.tokenizer.formats.tiktoken_file import _KNOWN_PATTERNS
from gptlab.tokenizer.formats.transformers_files import save_for_transformers

CODE = Path(transformers.__file__).parent.joinpath("activations.py").read_text()[:20_000]
CORPUS = CODE + "  naïve 中文字 🙂 'aaaa' baaab, 12345!\r\n\t" * 3
PIECES = [
    *"ab \n\t\r._()=-:<>0xAF\u2581é中🙂ſ\u0301",
    "  ",
    "    ",
    "self.",
    "def ",
    "return",
    "<0x0A>",
]
texts = st.lists(st.sampled_from(PIECES) | st.characters(codec="utf-8"), max_size=30).map("".join)


def sentencepiece_model(**settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.splitlines()),
        model_writer=model,
        minloglevel=2,
        **{
            "vocab_size": 600,
            "model_type": "bpe",
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "byte_fallback": True,
            **settings,
        },
    )
    return model.getvalue()


def encoding(pattern, special):
    ranks = train_bpe(texts=[CORPUS], vocab_size=500)._encoder.ranks
    return TiktokenTokenizer(
        tiktoken.Encoding(
            "ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special(len(ranks))
        )
    )


LLAMA2 = sentencepiece_model(split_digits=True, allow_whitespace_only_pieces=True)
CHAT = [
    AddedToken("<|im_start|>", 600),
    AddedToken("<|im_end|>", 601, rstrip=True),
    AddedToken("<pause>", 603, special=False),
]
EXACT = {
    "llama 2": lambda: SentencePieceTokenizer(LLAMA2),
    "a chat derivative": lambda: SentencePieceTokenizer(
        LLAMA2, added_tokens=CHAT, roles={"eos": "<|im_end|>", "pad": "</s>"}
    ),
    "a space unless there is one": lambda: SentencePieceTokenizer(
        sentencepiece_model(add_dummy_prefix=False),
        added_tokens=CHAT,
        metaspace="first",
    ),
    "always a space unless there is one": lambda: SentencePieceTokenizer(
        sentencepiece_model(add_dummy_prefix=False), added_tokens=CHAT, metaspace="always"
    ),
    "gemma-like": lambda: SentencePieceTokenizer(sentencepiece_model(add_dummy_prefix=False)),
    "without bytes": lambda: SentencePieceTokenizer(sentencepiece_model(byte_fallback=False)),
    "gptlab's bpe": lambda: train_sentencepiece([CORPUS], vocab_size=600, model_type="bpe"),
    "tiktoken gpt2": lambda: encoding(r50k_pat_str, lambda n: {"<|endoftext|>": n}),
    "tiktoken gpt4": lambda: encoding(SPLIT_PATTERNS["gpt4"], lambda n: {"<|endoftext|>": n + 5}),
    "tiktoken cl100k": lambda: encoding(
        _KNOWN_PATTERNS["cl100k_base"].replace("{1,3}", "{1,3}+"), lambda n: {"<|end|>": n}
    ),
    "tiktoken o200k": lambda: encoding(_KNOWN_PATTERNS["o200k_base"], lambda _: {}),
    "gptlab": lambda: train_bpe(texts=[CORPUS], vocab_size=500),
    "gptlab in lower case": lambda: train_bpe(texts=[CORPUS], vocab_size=500).with_lower_case(),
}
UNIGRAM = {
    "gptlab's unigram": lambda: train_sentencepiece([CORPUS], vocab_size=600),
    "unigram with a first space": lambda: SentencePieceTokenizer(
        sentencepiece_model(model_type="unigram")
    ),
    "unigram without angle brackets": lambda: train_sentencepiece(
        [CORPUS.replace("<", "").replace("A", "")], vocab_size=600
    ),
}


def saved(tokenizer, folder):
    save_for_transformers(tokenizer, folder)
    return transformers.AutoTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize("kind", EXACT)
def test_ids_and_texts_are_the_same(kind, tmp_path):
    tokenizer = EXACT[kind]()
    theirs = saved(tokenizer, tmp_path)
    special = " ".join(tokenizer.special_tokens)

    @given(texts)
    @example(CORPUS)
    @example("   a\n\n  b<pause>  " + special + " x\u2581y ")
    @example("a<|im_end|>  b<|im_start|> c")
    def check(text):
        ids = tokenizer.encode(text, allowed_special="all")
        assert theirs(text)["input_ids"] == ids
        if not set(tokenizer.special_tokens.values()) & {*ids}:
            assert theirs.decode(ids) == tokenizer.decode(ids)

    check()
    assert len(theirs) + len(tokenizer.gaps) == tokenizer.vocab_size
    roles = (theirs.pad_token_id, theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id)
    ours = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id)
    assert roles == ours


@pytest.mark.parametrize("kind", UNIGRAM)
def test_unigram_models_but_for_equally_likely_ways(kind, tmp_path):
    tokenizer = UNIGRAM[kind]()
    theirs = saved(tokenizer, tmp_path)
    scores = [piece.score for piece in read_model(tokenizer.model_bytes).pieces]
    differ = []

    @given(texts)
    @example(CODE)
    @example("<0x0A> a <0xE4><0x0A")
    def check(text):
        ids, others = tokenizer.encode(text), theirs(text)["input_ids"]
        if ids != others:
            differ.append(text)
            totals = [sum(scores[token] for token in found) for found in (ids, others)]
            assert totals[0] == pytest.approx(totals[1], abs=1e-3)
        assert theirs.decode(others) == theirs.decode(ids) == tokenizer.decode(ids)

    check()
    assert len(differ) < 5


@pytest.mark.parametrize("kind", [*EXACT, *UNIGRAM])
def test_gptlab_opens_the_folder_too(kind, tmp_path):
    tokenizer = (EXACT | UNIGRAM)[kind]()
    save_for_transformers(tokenizer, tmp_path)
    loaded = load_tokenizer(tmp_path)
    for text in (CORPUS, "  a<pause>\n\n<|im_start|>b \u2581", " ".join(tokenizer.special_tokens)):
        ids = tokenizer.encode(text, allowed_special="all")
        assert loaded.encode(text, allowed_special="all") == ids
        assert loaded.decode(ids) == tokenizer.decode(ids)
    for role in ("pad_id", "unk_id", "bos_id", "eos_id"):
        assert getattr(loaded, role) == getattr(tokenizer, role)
    if not isinstance(tokenizer, TiktokenTokenizer):
        assert loaded.fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gpt_neox", "mistral"])
@pytest.mark.parametrize("kind", ["llama 2", "gptlab", "gptlab in lower case"])
def test_beside_the_configuration_of_a_model(kind, model_type, tmp_path):
    tokenizer = EXACT[kind]()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = saved(tokenizer, tmp_path)
    for text in (CORPUS, "  a", "The cat"):
        assert theirs(text)["input_ids"] == tokenizer.encode(text)


REFUSED = {
    "one space of several": {"remove_extra_whitespaces": True},
    "normalises text": {"normalization_rule_name": "nmt_nfkc"},
    "'<x>' is user defined": {"user_defined_symbols": ["<x>"]},
    "neither BPE nor unigram": {"model_type": "char", "vocab_size": 350},
    "spaces end words": {"treat_whitespace_as_suffix": True},
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_can_not_be_exact_is_refused(problem, tmp_path):
    model = sentencepiece_model(**{"hard_vocab_limit": False, **REFUSED[problem]})
    with pytest.raises(TokenizerError, match=problem) as caught:
        save_for_transformers(SentencePieceTokenizer(model), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([Piece("ab"), Piece("a")], "'b' is in a piece"),
        ([Piece("ab"), Piece("ba"), Piece("a"), Piece("b")], "two of its pieces have one score"),
    ],
)
def test_models_made_by_hand(pieces, problem, tmp_path):
    model = Model([Piece("<unk>", 0, Kind.UNKNOWN), *pieces], "bpe", trims_spaces=False)
    tokenizer = SentencePieceTokenizer(write_model(model, roles={"unk": 0}))
    with pytest.raises(TokenizerError, match=problem):
        save_for_transformers(tokenizer, tmp_path)


def test_encodings_that_are_no_bpe(tmp_path):
    ranks = {bytes([byte]): byte for byte in range(256)}
    odd = tiktoken.Encoding(
        "odd", pat_str=".", mergeable_ranks={**ranks, b"abc": 256}, special_tokens={}
    )
    with pytest.raises(TokenizerError, match=r"'odd' is no byte-level BPE.*no merge makes it"):
        save_for_transformers(TiktokenTokenizer(odd), tmp_path)
    ambiguous = tiktoken.Encoding("w", pat_str=r"\w+", mergeable_ranks=ranks, special_tokens={})
    with pytest.raises(TokenizerError, match="engines read differently"):
        save_for_transformers(TiktokenTokenizer(ambiguous), tmp_path)


def test_other_classes_are_refused(tmp_path):
    class Mine:
        pass

    with pytest.raises(TokenizerError, match="a Mine can't be saved for transformers"):
        save_for_transformers(Mine(), tmp_path)
