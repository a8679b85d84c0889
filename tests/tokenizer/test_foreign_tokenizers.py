"""Tokenizers in the arrangements of others, held to Hugging Face's own reading of them."""

import json
import random
import re

import pytest
import tiktoken
import tiktoken.load
import tokenizers
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS
from gptlab.tokenizer.chunks.steps import normalise

CORPUS = (
    "The cat's naïve 🙂 aaaa baaab, 12345 CATS!\r\n\n\tThe 中文字 конец. Ünïcödé I'll we're  \n"
    "def f(x):\n        return x[0] + 1  # ﬁne ①② Å e\u0301 ΑΣ ﷺ हिन्दी العربية 日本語 한국어 "
) * 3
PIECES = [
    *"abcdeTHÅéβΣς中文字конец日हि한 \t\n\r'.,!?_-0123456789²½①ﬁſ🙂\0\u0301\u200d\u3000\u2028()[]/",
    *(
        "'s",
        "'LL",
        "  ",
        "    ",
        "\r\n",
        "aaa",
        "The cat",
        "12345",
        "zzz",
        " WORD",
        "<|endoftext|>",
        "<s>",
    ),
    *("<mask>", "<|im_start|>", "<|x|>", "<|X|>", "WORD", "word", "<｜end▁of▁sentence｜>"),
]
texts = st.lists(st.sampled_from(PIECES) | st.characters(max_codepoint=0x24F), max_size=25).map(
    "".join
)

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
DEEPSEEK = [
    r"[a-z ]+$",
    r"\p{N}{1,3}",
    r"[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
]
END = AddedToken("<|endoftext|>", special=True, normalized=False)


def isolated(*patterns):
    return [Split(Regex(pattern), "isolated") for pattern in patterns]


def no_regex(**options):
    return ByteLevel(add_prefix_space=False, use_regex=False, **options)


def trained(pre_tokenizer, *added, normalizer=None, special=(), size=420, alphabet=True):
    """A tokenizer that Hugging Face's library trains; `special` get the first ids."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=ByteLevel.alphabet() if alphabet else [],
        special_tokens=list(special),
        show_progress=False,
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    for token in added:
        tokenizer.add_tokens([token])
    return json.loads(tokenizer.to_str())


def gpt2():
    document = trained(ByteLevel(add_prefix_space=False), END)
    # As old files are: merges as strings, and parts that were not known yet.
    model = document["model"]
    document["model"] = {
        "vocab": model["vocab"],
        "merges": [" ".join(merge) for merge in model["merges"]],
        "unk_token": "",
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    }
    del document["pre_tokenizer"]["use_regex"]
    return document


def neox():
    runs = [AddedToken(" " * n, special=False, normalized=True) for n in (6, 4, 2)]
    return trained(
        ByteLevel(add_prefix_space=False), *runs, normalizer=normalizers.NFC(), special=[END, "<s>"]
    )


def llama3():
    """As it is converted from tiktoken's ranks: every pair that makes a token is a merge."""
    document = trained(Sequence([*isolated(LLAMA3), no_regex()]), END, "<|im_start|>")
    model = document["model"]
    vocab = model["vocab"]
    model["ignore_merges"] = True
    model["merges"] = [
        [token[:i], token[i:]]
        for token in vocab
        for i in range(1, len(token))
        if token[:i] in vocab and token[i:] in vocab
    ]
    # No merge makes these, so that they are found as whole chunks alone.
    for token in ("zzz", "ĠWORD", "aaa", "word"):
        vocab.setdefault(token, len(vocab))
    for number, token in enumerate(document["added_tokens"]):
        token["id"] = len(vocab) + number
    word = {"id": vocab["word"], "content": "word", "special": True}
    document["added_tokens"].append({**token, **word})
    return document


def qwen2():
    added = ["<|endoftext|>", "<|im_start|>"]
    return trained(
        Sequence([*isolated(QWEN2), no_regex()]),
        *(AddedToken(name, special=True, normalized=False) for name in added),
        AddedToken("<|x|>", special=False, normalized=False),
        normalizer=normalizers.NFC(),
    )


def smollm():
    return trained(
        Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]),
        special=["<|endoftext|>", "<|im_start|>", "<|x|>"],
    )


def digits_in_runs():
    return trained(Sequence([Digits(individual_digits=False), ByteLevel(add_prefix_space=True)]))


def deepseek():
    return trained(
        Sequence([*isolated(*DEEPSEEK), no_regex()]),
        AddedToken("<｜end▁of▁sentence｜>", special=True, normalized=True),
        AddedToken("<|x|>", special=False, normalized=True),
        normalizer=normalizers.Sequence([]),
        special=["<s>"],
    )


def bloom():
    return trained(Sequence([*isolated(r" ?[^(\s|[.,!?…。，、।۔،])]+"), no_regex()]))


def roberta():
    return trained(
        ByteLevel(add_prefix_space=True),
        AddedToken("<mask>", special=True, lstrip=True),
        AddedToken("<|x|>", special=False, rstrip=True, single_word=True),
        special=["<s>", "<pad>", "</s>", "<unk>"],
    )


def lowercase():
    return trained(
        ByteLevel(add_prefix_space=False),
        AddedToken("<|X|>", special=True, normalized=True),
        AddedToken("WORD", special=False, normalized=True, single_word=True),
        AddedToken("éß", special=False, normalized=True, lstrip=True, rstrip=True),
        normalizer=normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase()]),
    )


def findall():
    return trained(
        Sequence(
            [Split(Regex(r"\p{L}+|\p{N}|[^\p{L}\p{N}\s]+"), "removed", invert=True), no_regex()]
        ),
        normalizer=normalizers.NFKC(),
    )


def gpt4_findall():
    return trained(
        Sequence([Split(Regex(SPLIT_PATTERNS["gpt4"]), "removed", invert=True), no_regex()])
    )


def splits_of_all_kinds():
    return trained(
        Sequence(
            [
                Split("\n", "merged_with_previous"),
                Split(Regex(r"[A-Z]|\s"), "merged_with_next"),
                Split(Regex(r"straße|ss|a"), "contiguous"),
                Split(".", "removed"),
                Split(Regex(r"(?=(\d{3})+(?!\d))|\s+$"), "isolated", invert=True),
                no_regex(trim_offsets=False),
            ]
        ),
        normalizer=normalizers.NFKD(),
    )


def no_split():
    return trained(no_regex())


def shuffled_ids():
    """Ids with gaps, in no order, and an entry that is not in bytes."""
    document = trained(ByteLevel(add_prefix_space=False), special=["<|endoftext|>"])
    vocab = document["model"]["vocab"]
    ids = random.Random(0).sample(range(2000), len(vocab))
    document["model"]["vocab"] = {**dict(zip(vocab, ids, strict=True)), "never made": 3000}
    for token in document["added_tokens"]:
        token["id"] = document["model"]["vocab"][token["content"]]
    return document


def shuffled_merges():
    document = trained(ByteLevel(add_prefix_space=False))
    random.Random(1).shuffle(document["model"]["merges"])
    return document


def missing_bytes():
    return trained(ByteLevel(add_prefix_space=False), alphabet=False)


FAMILIES = {
    make.__name__: make
    for make in (
        *(gpt2, neox, llama3, qwen2, smollm, digits_in_runs, deepseek, bloom, roberta, lowercase),
        *(findall, gpt4_findall, splits_of_all_kinds, no_split, shuffled_ids, shuffled_merges),
        missing_bytes,
    )
}
LOSSY = {
    "digits_in_runs",
    "roberta",
    "findall",
    "splits_of_all_kinds",
    "missing_bytes",
    "lowercase",
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """Name, the tokenizer as Hugging Face reads it, and as gptlab does."""
    file = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    file.write_text(json.dumps(FAMILIES[request.param]()))
    return request.param, tokenizers.Tokenizer.from_file(str(file)), BPETokenizer.load(file.parent)


def test_same_ids(family):
    name, theirs, ours = family
    normalizers_ = ours._definition.normalizers

    @given(texts)
    def check(text):
        ids = ours.encode(text, allowed_special="all")
        assert ids == theirs.encode(text, add_special_tokens=False).ids
        if name not in LOSSY:
            assert ours.decode(ids) == normalise(text, normalizers_)
        plain = ours.encode(text)
        assert set(plain).isdisjoint(ours.special_tokens.values())

    check()
    for text in ("", " ", "word", CORPUS):
        assert ours.encode(text, allowed_special="all") == theirs.encode(text).ids
        assert set(ours.encode(text)).isdisjoint(ours.special_tokens.values())
    assert ours.special_tokens == {
        token.content: i
        for i, token in sorted(theirs.get_added_tokens_decoder().items())
        if token.special
    }


def test_saved_and_loaded(family, tmp_path):
    _, theirs, ours = family
    ours.save(tmp_path)
    again = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert json.loads(again.to_str()) == json.loads(theirs.to_str())
    loaded = BPETokenizer.load(tmp_path)
    assert loaded == ours
    assert loaded.fingerprint() == ours.fingerprint()
    auto = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in (CORPUS, "  <|x|> <mask>  WORD<|im_start|>12 <｜end▁of▁sentence｜>é"):
        ids = ours.encode(text, allowed_special="all")
        assert auto(text, add_special_tokens=False)["input_ids"] == ids


def test_with_special_tokens(family, tmp_path):
    _, _, ours = family
    more = ours.with_special_tokens(["<|user|>", "<|X|><|x|>"])
    more.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "<|user|>The cat<|X|><|x|> <|x|><|endoftext|> WORD <|user|>"
    assert more.encode(text, allowed_special="all") == theirs.encode(text).ids
    assert more.special_tokens["<|user|>"] == ours.vocab_size
    assert more.vocab_size == ours.vocab_size + 2
    assert "<|user|>" not in ours.special_tokens
    assert BPETokenizer.load(tmp_path) == more


@pytest.mark.parametrize("name", ["gpt2", "llama3", "lowercase", "shuffled_ids"])
def test_lone_surrogates_and_nothing_lost(name, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(FAMILIES[name]()))
    tokenizer = BPETokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("a\ud800\udfff b")) == "a\ud800\udfff b"


def test_known_patterns_are_recognised(tmp_path):
    names = {"gpt2": "gpt2", "neox": "gpt2", "llama3": "gpt4", "gpt4_findall": "gpt4"}
    for family, pattern in names.items():
        (tmp_path / "tokenizer.json").write_text(json.dumps(FAMILIES[family]()))
        assert BPETokenizer.load(tmp_path).pattern == pattern
    (tmp_path / "tokenizer.json").write_text(json.dumps(qwen2()))
    assert BPETokenizer.load(tmp_path).pattern == QWEN2


def gap_between_ids(document):
    document["added_tokens"][0]["id"] += 5


def set_part(part, value):
    def change(document):
        document[part] = value

    return change


def set_model(part, value):
    return lambda document: document["model"].update({part: value})


def set_split(**changes):
    step = {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    steps = [{**step, **changes}, byte_level]
    return set_part("pre_tokenizer", {"type": "Sequence", "pretokenizers": steps})


AMBIGUOUS = [
    (r"\w+", r"\w"),
    (r"\\\w", r"\w"),
    (r"\pL+", r"\pL"),
    (r"[\PL]", r"\PL"),
    (r"\p{N}{1,3}+", "{1,3}+"),
    (r"[[:digit:]]+", "[:digit:]"),
    (r"[[:alnum:]]+", "[:alnum:]"),
    (r"[a[:^punct:]]", "[:^punct:]"),
    ("a(?i)b", "(?i)"),
    ("(?i)b", "(?i)"),
    ("(?m:.)", "(?m:"),
    (r"(?i:\p{Ll}+)", "(?i:"),
    ("(?i:[a-z]+)", "(?i:"),
    *((f"(?i:{letters})", "(?i:") for letters in ("ss", "fi", "st", "ff")),
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d|'st)", "(?i:"),
    ("'(?i:[sdmt]|ll|ve|re)+", "(?i:"),
    ("(?i:[sdmt]|ll|ve|re)", "(?i:"),
    (r"\n^", "^"),
    ("(?:^a)", "^"),
    (r"[^\]^]^", "^"),
    (r"\[^a]", "^"),
    ("a||b", "||"),
]
REFUSED = [
    (set_part("normalizer", {"type": "StripAccents"}), "normalizer.*StripAccents"),
    (set_part("pre_tokenizer", None), "pre_tokenizer None does not end in ByteLevel"),
    (set_part("pre_tokenizer", {"type": "Metaspace"}), "pre_tokenizer.*Metaspace"),
    (set_split(type="Punctuation"), "pre_tokenizer step.*Punctuation"),
    (set_split(type="ByteLevel"), "pre_tokenizer step.*ByteLevel"),
    (set_split(behavior="Sideways"), "behavior 'Sideways'"),
    (set_split(pattern={"Regex": ""}), "pattern.*''"),
    (set_split(pattern={"Regex": "("}), r"pattern '\('.*can't be read"),
    *(
        (set_split(pattern={"Regex": expression}), re.escape(f"{expression!r} has {part!r}"))
        for expression, part in AMBIGUOUS
    ),
    (set_part("decoder", {"type": "WordPiece"}), "decoder.*WordPiece"),
    (set_model("type", "Unigram"), "type 'Unigram'"),
    (set_model("dropout", 0.1), r"dropout 0\.1"),
    (set_model("byte_fallback", True), "byte_fallback True"),
    (set_model("continuing_subword_prefix", "##"), "continuing_subword_prefix '##'"),
    (set_model("end_of_word_suffix", "</w>"), "end_of_word_suffix '</w>'"),
    (set_model("merges", ["a b c"]), "merge 0 is 'a b c'"),
    (set_model("merges", [["a", " "]]), "merge 0 is"),
    (set_model("merges", [["a", "zzzz"]]), "lacks 'zzzz'"),
    (set_model("merges", 3), "missing or garbled"),
    (set_part("model", None), "missing or garbled"),
    (lambda document: document["model"]["vocab"].update({"!": 1}), "the id 1 stands for both"),
    (lambda document: document["model"]["vocab"].update({"!": -1}), "id of '!' is -1"),
    (lambda document: document["model"]["vocab"].update({"!": "0"}), "id of '!' is '0'"),
    (gap_between_ids, "added token .* number it"),
    (lambda document: document["added_tokens"][0].pop("content"), "missing or garbled"),
]


@pytest.mark.parametrize(("change", "problem"), REFUSED, ids=[problem for _, problem in REFUSED])
def test_what_is_not_supported_is_named(tmp_path, change, problem):
    document = trained(ByteLevel(add_prefix_space=False), END, size=260)
    change(document)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=problem) as caught:
        BPETokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


def test_an_unknown_token_in_place_of_bytes_is_refused(tmp_path):
    document = trained(ByteLevel(add_prefix_space=False), special=["<unk>"], alphabet=False)
    document["model"]["unk_token"] = "<unk>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match="has '<unk>' in place of the byte 0x"):
        BPETokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, (1, 3, 0, 2)),
        ({}, (1, 3, 0, 2)),
        ({"bos_token": None, "pad_token": {"content": "<mask>"}}, ("<mask>", 3, None, 2)),
        ({"eos_token": "<s>", "unk_token": "missing"}, (1, None, 0, 0)),
    ],
)
def test_roles(tmp_path, config, expected):
    (tmp_path / "tokenizer.json").write_text(json.dumps(roberta()))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = BPETokenizer.load(tmp_path)
    ids = tuple(tokenizer.special_tokens.get(role, role) for role in expected)
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.bos_id, tokenizer.eos_id) == ids
    tokenizer.save(tmp_path / "saved")
    loaded = BPETokenizer.load(tmp_path / "saved")
    assert (loaded.pad_id, loaded.unk_id, loaded.bos_id, loaded.eos_id) == ids


def test_dropout_splits_whole_chunks_too(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(llama3()))
    tokenizer = BPETokenizer.load(tmp_path)
    assert len(tokenizer.encode("zzz")) == 1
    assert len(tokenizer.encode("zzz", dropout=1.0)) == 3


def test_tiktoken_files_of_others(family, tmp_path, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    name, _, ours = family
    ours.save(tmp_path)
    file = tmp_path / "tokenizer.tiktoken"
    assert file.exists() == (name in {"gpt2", "gpt4_findall"})
    if file.exists():
        encoding = tiktoken.Encoding(
            "same",
            pat_str=SPLIT_PATTERNS[ours.pattern],
            mergeable_ranks=tiktoken.load.load_tiktoken_bpe(str(file)),
            special_tokens=ours.special_tokens,
        )
        text = CORPUS + "<|endoftext|>zzz"
        assert encoding.encode(text, allowed_special="all") == ours.encode(
            text, allowed_special="all"
        )
