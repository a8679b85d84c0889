"""Folders as the families of pretrained models are published, and `load_tokenizer`."""

import json

import pytest
import tokenizers
import transformers
from hypothesis import example, given
from test_foreign_tokenizers import CORPUS, gpt2, llama3, neox, qwen2, smollm
from test_foreign_tokenizers import texts as byte_level_texts
from test_transformers_files import CHAT, CODE, LLAMA2, sentencepiece_model, texts

from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer, SentencePieceTokenizer, load_tokenizer
from gptlab.tokenizer.formats.sentencepiece_file import Kind, read_model
from gptlab.tokenizer.formats.transformers_files import save_for_transformers

# Family: its tokenizer.json, its other files, and the names of what pads, begins and ends.
PUBLISHED = {
    "gpt2": (gpt2, {"config.json": {"bos_token_id": 400, "eos_token_id": 400}}, None),
    "pythia": (
        neox,
        {
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
            "special_tokens_map.json": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        },
        (None, "<|endoftext|>", "<|endoftext|>"),
    ),
    "llama3": (
        llama3,
        {
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
            "generation_config.json": {"bos_token_id": -1, "eos_token_id": [-1, -2]},
        },
        None,
    ),
    "qwen2": (
        qwen2,
        {
            "tokenizer_config.json": {
                "tokenizer_class": "Qwen2Tokenizer",
                "bos_token": None,
                "eos_token": "<|im_start|>",
                "pad_token": "<|endoftext|>",
                "unk_token": None,
            },
            "config.json": {"model_type": "qwen2", "bos_token_id": 1, "eos_token_id": 2},
        },
        ("<|endoftext|>", None, "<|im_start|>"),
    ),
    "smollm": (
        smollm,
        {
            "tokenizer_config.json": {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
                "eos_token": "<|endoftext|>",
            },
        },
        (None, "<|endoftext|>", "<|endoftext|>"),
    ),
}


def publish(folder, document, others=()):
    (folder / "tokenizer.json").write_text(json.dumps(document))
    for name, content in dict(others).items():
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("family", PUBLISHED)
def test_byte_level_families(family, tmp_path):
    make, others, roles = PUBLISHED[family]
    publish(tmp_path, make(), others)
    ours = load_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))

    @given(byte_level_texts)
    @example(CORPUS)
    @example(CODE)
    def check(text):
        ids = ours.encode(text, allowed_special="all")
        assert theirs(text, add_special_tokens=False)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids)

    check()
    if roles is not None:
        names = [ours.special_tokens.get(name) for name in roles]
        assert [ours.pad_id, ours.bos_id, ours.eos_id] == names


def test_roles_that_only_the_model_names(tmp_path):
    document = gpt2()
    publish(tmp_path, document)
    end = BPETokenizer.load(tmp_path).special_tokens["<|endoftext|>"]
    assert load_tokenizer(tmp_path).bos_id is None
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": end, "eos_token_id": 7}))
    assert (load_tokenizer(tmp_path).bos_id, load_tokenizer(tmp_path).eos_id) == (end, 7)
    generation = {"bos_token_id": 9, "eos_token_id": [5, 6]}
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert (load_tokenizer(tmp_path).bos_id, load_tokenizer(tmp_path).eos_id) == (9, 5)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))
    assert load_tokenizer(tmp_path).eos_id == end
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": None}))
    assert load_tokenizer(tmp_path).eos_id is None
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": 10**6}))
    (tmp_path / "generation_config.json").unlink()
    assert load_tokenizer(tmp_path).bos_id is None


ADDED = {
    "tokenizer_config.json": {
        "added_tokens_decoder": {
            "0": {"content": "<unk>", "special": True},
            "2": {"content": "</s>", "special": True},
            **{
                str(token.id): {
                    "__type": "AddedToken",
                    "content": token.content,
                    "rstrip": token.rstrip,
                    "special": token.special,
                }
                for token in CHAT
            },
        },
        "eos_token": "<|im_end|>",
        "pad_token": "</s>",
    }
}
ADDED_OLD = {
    "added_tokens.json": {token.content: token.id for token in CHAT},
    "special_tokens_map.json": {
        "eos_token": {"content": "<|im_end|>"},
        "pad_token": "</s>",
        "additional_special_tokens": ["<|im_start|>"],
    },
}


@pytest.mark.parametrize("others", [ADDED, ADDED_OLD], ids=["config", "older files"])
def test_a_model_file_with_tokens_that_were_added(others, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(LLAMA2)
    for name, content in others.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer, bare = load_tokenizer(tmp_path), SentencePieceTokenizer(LLAMA2)
    assert (tokenizer.vocab_size, tokenizer.gaps) == (604, (602,))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 601, 2)
    assert list(tokenizer.special_tokens)[-2:] == ["<|im_start|>", "<|im_end|>"]
    text = "<|im_start|>self.x<pause> y<|im_end|>"
    assert tokenizer.encode(text, allowed_special="all") == [
        600,
        *bare.encode("self.x"),
        603,
        *bare.encode(" y"),
        601,
    ]
    plain = tokenizer.encode(text)
    assert {600, 601}.isdisjoint(plain)
    assert 603 in plain
    assert tokenizer.encode_to_array(text).tolist() == plain
    assert tokenizer.decode([600, *bare.encode("a b"), 601]) == "<|im_start|> a b<|im_end|>"
    assert tokenizer.decode([*bare.encode("a b"), 601]) == "a b<|im_end|>"
    assert tokenizer.decode([600, *bare.encode("  a")]) == "<|im_start|>   a"
    assert tokenizer.decode([600, 1, *bare.encode("a")]) == "<|im_start|> a"
    assert tokenizer.token_bytes(601) == b"<|im_end|>"
    for unknown in (602, 604):
        with pytest.raises(TokenizerError, match=f"id {unknown} is not in the vocabulary"):
            tokenizer.decode([unknown])
        with pytest.raises(TokenizerError, match=f"id {unknown} is not in the vocabulary"):
            tokenizer.token_bytes(unknown)
    assert tokenizer.fingerprint() != bare.fingerprint()
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.eos_id == 601


def test_both_kinds_of_files(tmp_path):
    save_for_transformers(SentencePieceTokenizer(LLAMA2), tmp_path)
    assert isinstance(load_tokenizer(tmp_path), SentencePieceTokenizer)
    publish(tmp_path, llama3())
    assert isinstance(load_tokenizer(tmp_path), BPETokenizer)
    assert isinstance(load_tokenizer(tmp_path, kind="sentencepiece"), SentencePieceTokenizer)
    # Beside Llama 3's, this is no SentencePiece model at all.
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\n")
    assert isinstance(load_tokenizer(tmp_path), BPETokenizer)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError, match="can't be read as a SentencePiece model"):
        load_tokenizer(tmp_path)


def llama2_document(tmp_path, **settings):
    model = SentencePieceTokenizer(
        sentencepiece_model(**settings), added_tokens=[CHAT[0]], roles={"eos": "<|im_start|>"}
    )
    save_for_transformers(model, tmp_path / "source")
    return json.loads((tmp_path / "source" / "tokenizer.json").read_text())


def metaspace(scheme):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


SPACINGS = {
    "before each text": {},
    "first": {"normalizer": None, "pre_tokenizer": metaspace("first")},
    "always": {"normalizer": None, "pre_tokenizer": metaspace("always")},
    "never": {"normalizer": None, "pre_tokenizer": metaspace("never")},
    "replaced": {
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    },
}


@pytest.mark.parametrize("spacing", SPACINGS)
def test_only_the_json_of_a_sentencepiece_model(spacing, tmp_path):
    document = llama2_document(tmp_path) | SPACINGS[spacing]
    if spacing in ("never", "replaced"):
        document["decoder"]["decoders"].pop()
    publish(tmp_path, document, {"tokenizer_config.json": {"eos_token": "<|im_start|>"}})
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    check_as_theirs(load_tokenizer(tmp_path), theirs)
    assert load_tokenizer(tmp_path / "tokenizer.json").eos_id == 600
    load_tokenizer(tmp_path).save(tmp_path / "saved")
    check_as_theirs(load_tokenizer(tmp_path / "saved"), theirs)
    save_for_transformers(load_tokenizer(tmp_path), tmp_path / "again")
    again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "again"))
    check_as_theirs(load_tokenizer(tmp_path), again.backend_tokenizer)
    with pytest.raises(TokenizerError, match="kind sentencepiece, not default"):
        load_tokenizer(tmp_path, kind="default")


def check_as_theirs(ours, theirs):
    @given(texts)
    @example(CODE)
    @example(" a")
    @example("▁a ▁")
    @example("<|im_start|>a<|im_start|> a</s> ")
    def check(text):
        ids = ours.encode(text, allowed_special="all")
        assert theirs.encode(text, add_special_tokens=False).ids == ids
        if {0, 1, 2}.isdisjoint(ids):
            assert theirs.decode(ids, skip_special_tokens=False) == ours.decode(ids)

    check()


def test_as_transformers_saves_it_itself(tmp_path):
    """From the model's file, it writes a tokenizer.json and nothing else."""
    (tmp_path / "tokenizer.model").write_bytes(LLAMA2)
    config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    theirs.save_pretrained(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "tokenizer.model").exists()
    ours = load_tokenizer(tmp_path / "saved")
    check_as_theirs(ours, theirs.backend_tokenizer)
    assert (ours.bos_id, ours.eos_id) == (1, 2)
    # The model itself puts a space in front even where there is one; otherwise they agree.
    for text in ("def f(x):\n    return x\n", "naïve 中文", CODE):
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert load_tokenizer(tmp_path).encode(text) == ids


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_what_a_model_file_says(algorithm):
    content = sentencepiece_model(model_type=algorithm, user_defined_symbols=["<x>"])
    model = read_model(content)
    library = SentencePieceTokenizer(content)._processor
    assert model.algorithm == algorithm
    assert (model.byte_fallback, model.adds_space, model.trims_spaces) == (True, True, False)
    for i, piece in enumerate(model.pieces):
        assert piece.text == library.id_to_piece(i)
        assert piece.score == library.get_score(i)
        assert (piece.kind == Kind.BYTE) == library.is_byte(i)
        assert (piece.kind == Kind.CONTROL) == library.is_control(i)
        assert (piece.kind == Kind.UNKNOWN) == library.is_unknown(i)
    assert [piece.text for piece in model.pieces if piece.kind == Kind.USER_DEFINED] == ["<x>"]


@pytest.mark.parametrize("content", [b"\x0a", b"\x0a\x05ab", b"\x0f", b"\xff" * 3, b"\x08\x01\x10"])
def test_what_is_no_model_file_is_noticed(content):
    with pytest.raises(ValueError, match=r"ends within|unknown type|is a number"):
        read_model(content)


def set_model(**changes):
    return lambda document: document["model"].update(changes)


def set_part(name, value):
    return lambda document: document.update({name: value})


def without(name):
    return lambda document: document["model"]["vocab"].pop(name)


def last_merge_first(document):
    document["model"]["merges"].append(document["model"]["merges"][0])


REFUSED = [
    (set_model(type="WordPiece"), "type 'WordPiece', not 'BPE'"),
    (set_model(type="Unigram"), "type 'Unigram', not 'BPE'"),
    (set_model(dropout=0.1), r"dropout 0\.1"),
    (set_model(ignore_merges=True), "ignore_merges True"),
    (set_model(byte_fallback=False, fuse_unk=False), "neither byte_fallback nor fuse_unk"),
    (set_model(unk_token="?!"), r"unk_token '\?!' is not in its vocabulary"),
    (set_model(merges=[]), "not all that could make"),
    (set_model(merges=3), "missing or garbled"),
    (last_merge_first, "its merges come back to"),
    (without("<0x41>"), "tokens do not have the ids from 0 to"),
    (lambda document: document["model"]["vocab"].update({"x": 5}), "tokens do not have the ids"),
    (set_part("model", None), "missing or garbled"),
    (set_part("normalizer", {"type": "NFC"}), "is no byte-level BPE and no SentencePiece model"),
    (set_part("pre_tokenizer", {"type": "Whitespace"}), "Whitespace.*no SentencePiece model"),
    (set_part("decoder", {"type": "WordPiece"}), "decoder has 'WordPiece'"),
    (
        lambda document: document.update(
            normalizer=None, pre_tokenizer={**metaspace("always"), "split": True}
        ),
        "its pre_tokenizer is",
    ),
]


@pytest.mark.parametrize(("change", "problem"), REFUSED, ids=[problem for _, problem in REFUSED])
def test_other_tokenizers_are_refused(change, problem, tmp_path):
    document = llama2_document(tmp_path)
    change(document)
    publish(tmp_path, document)
    with pytest.raises(TokenizerError, match=problem) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    assert "put the SentencePiece model" in str(caught.value)


def test_truncated_files(tmp_path):
    publish(tmp_path, llama3())
    content = (tmp_path / "tokenizer.json").read_text()
    for end in (0, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "tokenizer.json").write_text(content[:end])
        with pytest.raises(TokenizerError, match="is no valid JSON"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize("others", ["tokenizer.model", "qwen.tiktoken", None])
def test_code_of_its_own_is_not_run(others, tmp_path):
    config = {"auto_map": {"AutoTokenizer": ["tokenization_mine.MyTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    trap = tmp_path / "trap"
    (tmp_path / "tokenization_mine.py").write_text(f"open({str(trap)!r}, 'w')")
    if others:
        (tmp_path / others).write_bytes(LLAMA2)
    with pytest.raises(TokenizerError, match=r"code of its own .*auto_map.*never runs"):
        load_tokenizer(tmp_path)
    publish(tmp_path, llama3())
    assert load_tokenizer(tmp_path).encode("word")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"600": {"name": "a"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["a"]}),
        ("added_tokens.json", {"a": 600, "b": "600"}),
    ],
)
def test_garbled_added_tokens(name, content, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(LLAMA2)
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="adds to its tokenizer are garbled"):
        load_tokenizer(tmp_path)


def test_two_added_tokens_with_one_id(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(LLAMA2)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<a>": 600, "<b>": 600}))
    with pytest.raises(TokenizerError, match="the id 600 stands for both '<a>' and '<b>'"):
        load_tokenizer(tmp_path)


def test_a_spacing_that_nobody_knows(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(LLAMA2)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"gptlab_metaspace": "often"}))
    with pytest.raises(TokenizerError, match="gptlab_metaspace 'often'; choose one of never"):
        load_tokenizer(tmp_path)
