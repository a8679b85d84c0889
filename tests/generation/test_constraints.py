import json
import random
import re
import sys
import unicodedata
from functools import cache

import pytest
import regex
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import SamplingConfig
from gptlab.errors import BackendError, ConfigError
from gptlab.generation.constraints import make_constraint
from gptlab.tokenizer import BPETokenizer, TiktokenTokenizer, train_bpe
from gptlab.tokenizer.adapters.sentencepiece_trainer import train_sentencepiece

TEXTS = ["the quick brown fox, naïve 中文字 🙂 abcabcabbbaccab 12 2024-10-10 " * 5]
TOKENIZER = train_bpe(
    texts=[*TEXTS, '{"name": "Mia", "age": 12, "tags": ["a", "b"]} ' * 5], vocab_size=330
)
V = TOKENIZER.vocab_size
PADDED = V + 7
EOS = TOKENIZER.eos_id


class Endless(BPETokenizer):
    eos_id = None


ENDLESS = Endless(TOKENIZER.merges)


def constraint(tokenizer=TOKENIZER, vocab_size=PADDED, prompt=(1,), **settings):
    config = SamplingConfig(**settings)
    return make_constraint(config, tokenizer, prompt=list(prompt), vocab_size=vocab_size)


def allowed(row):
    mask = row.allowed()
    assert mask.shape == (PADDED,)
    assert str(mask.device) == "cpu"
    return mask.nonzero()[:, 0].tolist()


def draw(row, seed, *, steps=60, ending=0.0):
    """Random tokens among those that may come: the text, and whether it has ended."""
    rng = random.Random(seed)
    text = b""
    for _ in range(steps):
        if row.is_over:
            return text, True
        ids = allowed(row)
        if EOS in ids and (len(ids) == 1 or rng.random() < ending):
            row.advance(EOS)
            assert row.is_over
            return text, True
        token = rng.choice([i for i in ids if i != EOS])
        assert row.permits(token)
        text += TOKENIZER.token_bytes(token)
        row.advance(token)
    return text, False


# Those of the patterns, and for each beginning of a character at least one.
SIGNS = [*"éï中文字🙂", *(chr(n) for n in range(0x80, 0x110000, 64) if not 0xD800 <= n < 0xE000)]


@cache
def signs_of(beginning):
    return [sign for sign in SIGNS if sign.encode().startswith(beginning)]


def can_begin(pattern, data):
    """Whether some text that matches begins with these bytes: the slow oracle."""
    try:
        return regex.fullmatch(pattern, data.decode(), partial=True) is not None
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        whole, tail = data[: error.start].decode(), data[error.start :]
        return any(regex.fullmatch(pattern, whole + sign, partial=True) for sign in signs_of(tail))


def matches(pattern, data):
    try:
        return re.fullmatch(pattern, data.decode()) is not None
    except UnicodeDecodeError:
        return False


PATTERNS = [
    "",
    "ab*",
    "the quick",
    "quick|quack",
    "(the quick )?brown( fox)?",
    "[a-c]{2,5}x",
    "é+|中文|字",
    "naïve .",
    "[0-9]{4}-[0-9]{2}",
    "a(b|ca)*c",
    "[a-z ]*fox",
    "^the$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_mask_is_that_of_the_oracle(pattern):
    tokens = {i: TOKENIZER.token_bytes(i) for i in range(V - 4)}
    for seed in range(2):
        row, text, rng = constraint(regex=pattern), b"", random.Random(seed)
        for _ in range(7):
            expected = [i for i, token in tokens.items() if can_begin(pattern, text + token)]
            assert row.is_over == (matches(pattern, text) and not expected)
            ends = [EOS] if matches(pattern, text) else []
            ids = allowed(row)
            assert ids == sorted(expected + ends)
            if not expected:
                break
            token = rng.choice(expected)
            text += tokens[token]
            row.advance(token)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(PATTERNS), st.integers(0, 10**6))
def test_a_finished_text_matches_and_an_unfinished_one_can(pattern, seed):
    text, ended = draw(constraint(regex=pattern), seed, steps=12, ending=0.3)
    assert matches(pattern, text) if ended else can_begin(pattern, text)


def test_only_the_end_of_the_vocabulary_is_ever_special():
    row = constraint(regex=r"[\s\S]*")
    ids = allowed(row)
    assert EOS in ids
    assert not {TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.unk_id} & {*ids}
    assert max(ids) < V
    spelled = constraint(regex="<EOS>x")
    assert EOS not in allowed(spelled)


@pytest.mark.parametrize("endless", [{"tokenizer": ENDLESS}, {"ignore_eos": True}])
def test_without_an_end_the_row_is_over_when_nothing_can_follow(endless):
    row = constraint(regex="ab?", **endless)
    a, b = TOKENIZER.encode("a") + TOKENIZER.encode("b")
    row.advance(a)
    assert EOS not in allowed(row)
    assert not row.is_over
    row.advance(b)
    assert row.is_over
    assert allowed(row) == []


def test_rows_do_not_touch_each_other():
    first, second = constraint(regex="(the|fox)+"), constraint(regex="(the|fox)+")
    before = allowed(second)
    first.advance(TOKENIZER.encode("the")[0])
    first.advance(TOKENIZER.encode("f")[0])
    assert allowed(second) == before
    assert allowed(first) != before


def test_a_model_with_fewer_logits_than_ids():
    row = constraint(regex="[a-z]*", vocab_size=200)
    assert row.allowed().shape == (200,)
    assert row.permits(ord("q"))


def test_a_sentencepiece_vocabulary():
    tokenizer = train_sentencepiece(TEXTS, vocab_size=290)
    row = make_constraint(SamplingConfig(regex="the 中"), tokenizer, prompt=[5], vocab_size=290)
    ids = []
    while not row.is_over:
        ids.append(int(row.allowed().nonzero()[-1]))
        row.advance(ids[-1])
    assert tokenizer.decode(ids) == "the 中"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"regex": "(ab"}, r"regex '\(ab' can't be used: unclosed group$"),
        ({"regex": "a(?=b)"}, "look-around, including look-ahead and look-behind, is not supp"),
        ({"regex": r"(a)\1"}, "backreferences are not supported$"),
        ({"regex": r"\bfoo"}, "can't be used: lookarounds not supported yet"),
        ({"regex": r"[^\s\S]"}, "can't be used: no text matches it$"),
        ({"json_schema": "{"}, r"json_schema '\{' can't be used: \S"),
        ({"json_schema": "3"}, "schema must be an object or boolean$"),
        ({"json_schema": '{"type": "text"}'}, "Invalid type: text$"),
        ({"json_schema": '{"not": {}}'}, r'Unimplemented keys: \["not"\]$'),
        ({"json_schema": '{"type": "string", "pattern": "("}'}, "unclosed group$"),
        ({"json_schema": "false"}, "Unsatisfiable schema: schema is false$"),
        ({"regex": "a", "valid_python": True}, "^regex and valid_python exclude each other; give"),
        ({"regex": "", "json_schema": "{}"}, "^regex and json_schema exclude each other; give one"),
    ],
)
def test_what_can_not_be_used(setting, message):
    with pytest.raises(ConfigError, match=message) as caught:
        constraint(**setting)
    assert "\n" not in str(caught.value)


def test_what_the_vocabulary_can_not_write():
    class Letters:
        vocab_size, pad_id, unk_id, bos_id, eos_id = 26, None, None, None, None

        def encode(self, text):
            return [ord(sign) - 97 for sign in text if sign.isalpha()]

        def token_bytes(self, token):
            return bytes([97 + token])

    row = make_constraint(SamplingConfig(regex="a1"), Letters(), prompt=[], vocab_size=26)
    row.advance(0)
    with pytest.raises(ConfigError, match="regex asks for text that no token of this vocabulary"):
        row.allowed()


def test_no_setting_is_no_constraint():
    assert constraint() is None


def test_a_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    message = r'regex needs the package llguidance; run pip install "gptlab\[structured\]"'
    with pytest.raises(BackendError, match=message):
        constraint(regex="never compiled before")


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "中", "long one"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def is_person(value):
    return (
        {"name", "age"} <= {*value} <= {"name", "age", "tags"}
        and 1 <= len(value["name"]) <= 5
        and type(value["age"]) is int
        and 0 <= value["age"] <= 130
        and len(value.get("tags", [])) <= 3
        and {*value.get("tags", [])} <= {"a", "中", "long one"}
    )


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_json_that_fits_the_schema(seed):
    # Spaces may repeat for ever; this schema has none.
    schema = {**PERSON, "x-guidance": {"whitespace_flexible": False}}
    text, ended = draw(constraint(json_schema=json.dumps(schema)), seed, steps=300, ending=0.5)
    assert ended
    assert is_person(json.loads(text))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_any_json(seed):
    text, ended = draw(constraint(json_schema="{}"), seed, steps=40, ending=0.5)
    if ended:
        json.loads(text)


def test_a_schema_says_where_text_may_end():
    row = constraint(json_schema='{"type": "integer"}')
    assert EOS not in allowed(row)
    row.advance(ord("4"))
    assert EOS in allowed(row)
    assert not row.is_over
    done = constraint(json_schema='{"const": 4}')
    done.advance(ord("4"))
    assert done.is_over
    assert allowed(done) == [EOS]


def prompt_of(text):
    return TOKENIZER.encode(text)


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["", "def f(x):\n    return ", "é = f'{", "if a:\n"]))
def test_python_ends_only_where_the_program_is_whole(seed, prompt):
    rng = random.Random(seed)
    row = constraint(valid_python=True, prompt=[EOS, *prompt_of(prompt)])
    text = prompt.encode()
    for _ in range(25):
        ids = allowed(row)
        rng.shuffle(ids)
        ids.sort(key=lambda token: token != EOS or rng.random() < 0.8)
        token = next(token for token in ids if row.permits(token))
        row.advance(token)
        if token == EOS:
            compile(text.decode(), "<text>", "exec", 0x400)  # ast.PyCF_ONLY_AST
            assert row.is_over
            assert allowed(row) == []
            return
        text += TOKENIZER.token_bytes(token)


def test_python_refuses_what_no_program_goes_on_with():
    row = constraint(valid_python=True, prompt=prompt_of("x = f(a"))
    assert row.permits(ord(","))
    assert row.permits(ord(")"))
    assert not row.permits(ord("]"))
    assert not row.permits(EOS)
    assert not row.permits(TOKENIZER.bos_id)
    assert EOS not in allowed(row)
    with pytest.raises(ConfigError, match="token 93 does not go on with a Python program; draw an"):
        row.advance(ord("]"))
    row.advance(ord(")"))
    assert row.permits(EOS)
    assert EOS in allowed(row)


def test_parts_of_characters_in_python():
    row = constraint(valid_python=True, prompt=prompt_of("x"))
    letter, symbol = "é".encode(), "×".encode()
    assert letter[0] == symbol[0]
    row.advance(letter[0])
    assert not row.permits(EOS)
    assert row.permits(letter[1])
    assert not row.permits(symbol[1])
    assert not row.permits(ord("a"))
    assert not constraint(valid_python=True, prompt=prompt_of("b'")).permits(letter[0])
    assert constraint(valid_python=True, prompt=prompt_of("x'"[1:])).permits(symbol[0])
    assert unicodedata.category("🙂") == "So"
    smile = "🙂".encode()
    inside = constraint(valid_python=True, prompt=prompt_of("# "))
    for byte in smile:
        assert inside.permits(byte)
        inside.advance(byte)


def test_a_prompt_that_is_no_python():
    message = "line 2 of the prompt, 'y = = 2', is no beginning of a Python program; mend it"
    with pytest.raises(ConfigError, match=message):
        constraint(valid_python=True, prompt=prompt_of("x = 1\ny = = 2\nz"))


def test_the_special_tokens_of_other_tokenizers_are_no_text():
    ranks = {bytes([byte]): byte for byte in range(256)}
    special = {"<|endoftext|>": 256, "<|pad|>": 257}
    encoding = tiktoken.Encoding("x", pat_str=".+", mergeable_ranks=ranks, special_tokens=special)
    sentencepiece = train_sentencepiece(TEXTS, vocab_size=290)
    for tokenizer in (TiktokenTokenizer(encoding), sentencepiece):
        size = tokenizer.vocab_size
        row = make_constraint(
            SamplingConfig(regex=r"[\s\S]*"), tokenizer, prompt=[], vocab_size=size
        )
        refused = {i for i in range(size) if not row.permits(i)}
        assert {*tokenizer.special_tokens.values()} - {tokenizer.eos_id} <= refused
        assert row.permits(tokenizer.eos_id)
