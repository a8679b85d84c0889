import io
import json
import re
import sys
from collections import Counter
from unicodedata import east_asian_width

import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.errors import TokenizerError
from gptlab.tokenizer import (
    BPETokenizer,
    SentencePieceTokenizer,
    TiktokenTokenizer,
    train_bpe,
)
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS
from gptlab.tokenizer.inspection import TokenCount, compare, measure, measure_all, picture

CORPUS = [f"the quick brown fox number {i} jumps over the lazy dog\n日本語" for i in range(50)]
BPE = train_bpe(texts=CORPUS, vocab_size=330)
BYTES = BPETokenizer([])


def make_tiktoken() -> TiktokenTokenizer:
    ranks = {BPE.token_bytes(i): i for i in range(BPE.vocab_size - 4)}
    encoding = tiktoken.Encoding(
        "ours",
        pat_str=SPLIT_PATTERNS["gpt4"],
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": len(ranks) + 2, "<|user|>": len(ranks) + 3},
    )
    return TiktokenTokenizer(encoding)


def make_sentencepiece() -> SentencePieceTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text.partition("\n")[0] for text in CORPUS),
        model_writer=model,
        vocab_size=42,
        minloglevel=2,
    )
    return SentencePieceTokenizer(model.getvalue())


TIKTOKEN, SENTENCEPIECE = make_tiktoken(), make_sentencepiece()
ALL = {"bpe": BPE, "bytes": BYTES, "tiktoken": TIKTOKEN, "sentencepiece": SENTENCEPIECE}
words = st.lists(st.sampled_from(["the", " quick", " fox", " lazy", "日", "é", "\n", "<EOS>"]))
texts_of_words = st.lists(words.map("".join) | st.text(max_size=20), max_size=6)


class OnlyTheProtocol:
    """A tokenizer that does not tell the bytes of its tokens."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer

    def __getattr__(self, name):
        if name == "token_bytes":
            raise AttributeError(name)
        return getattr(self._tokenizer, name)


def display_width(text: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


@settings(max_examples=50, deadline=None)
@given(texts_of_words, st.sampled_from([1, 7, 1000]))
def test_a_measurement_is_what_counting_by_hand_gives(texts, batch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[measure.__module__], "_BATCH_CHARACTERS", batch)
        found = measure(BPE, iter(texts))
    counts = Counter(token for text in texts for token in BPE.encode(text))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    special = {BPE.pad_id, BPE.unk_id, BPE.bos_id, BPE.eos_id}
    assert (found.tokens, found.bytes, found.characters) == (
        counts.total(),
        size,
        len("".join(texts)),
    )
    assert (found.vocab_size, found.used) == (BPE.vocab_size, len(counts))
    assert found.share_used == len(counts) / BPE.vocab_size
    assert found.dead_ids == tuple(sorted({*range(BPE.vocab_size)} - special - counts.keys()))
    assert found.tokens_per_byte == (counts.total() / size if size else 0)
    assert found.bytes_per_token == (size / counts.total() if size else 0)
    longest = sorted(counts, key=lambda i: (-len(BPE.token_bytes(i)), -counts[i], i))
    frequent = sorted(counts, key=lambda i: (-counts[i], i))
    assert [(token.id, token.count) for token in found.longest] == [
        (i, counts[i]) for i in longest[:10]
    ]
    assert [(token.id, token.count) for token in found.most_frequent] == [
        (i, counts[i]) for i in frequent[:10]
    ]


@settings(max_examples=10, deadline=None)
@given(texts_of_words)
def test_side_by_side_each_is_measured_as_if_alone(texts):
    together = measure_all(ALL, iter(texts))
    assert together == {name: measure(tokenizer, texts) for name, tokenizer in ALL.items()}


def test_a_lone_string_is_a_list_of_one():
    assert measure(BPE, "the quick fox") == measure(BPE, ["the quick fox"])
    assert compare({"bpe": BPE}, "the quick fox") == compare({"bpe": BPE}, ["the quick fox"])


@pytest.mark.parametrize(
    ("tokenizer", "others"),
    [(BPE, 4), (BPE.with_special_tokens(["<USER>"]), 5), (TIKTOKEN, 4), (SENTENCEPIECE, 3)],
)
def test_special_tokens_and_gaps_are_not_dead(tokenizer, others):
    assert len(measure(tokenizer, []).dead_ids) == tokenizer.vocab_size - others


def test_the_unknown_token_is_not_long():
    found = measure(SENTENCEPIECE, "ü the ü")
    assert SENTENCEPIECE.unk_id in [token.id for token in found.most_frequent]
    assert found.longest[0].id != SENTENCEPIECE.unk_id


def test_a_measurement_goes_into_json():
    found = measure(BPE, "the quick\n")
    values = json.loads(json.dumps(found.as_dict()))
    assert values["dead_tokens"] == len(found.dead_ids) > 0
    assert "dead_ids" not in values
    assert values["tokens_per_byte"] == found.tokens_per_byte
    assert TokenCount(**values["longest"][0]) == found.longest[0]
    assert found.longest[0].text == " quick"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the lazy dog", "│the│ lazy│ dog│"),
        ("a\n\tb", "│a│⏎│⇥│b│"),
        ("é", "│<C3>│<A9>│"),
        ("日本x", "│日本│x│"),
        ("│", "│<E2>│<94>│<82>│"),
        ("\x1b|\r", "│<1B>│|│<0D>│"),
        ("\ud800", "│<ED>│<A0>│<80>│"),
        ("", "│"),
    ],
)
def test_picture(text, shown):
    assert picture(BPE, BPE.encode(text)) == shown


@pytest.mark.parametrize("text", ["a│b", "a\u200bb", "a\u202eb", "a\u00a0b", "a\x85b"])
def test_a_character_that_can_not_be_shown_is_in_hex_inside_its_token_too(text):
    merges = [(text.encode()[:n], text.encode()[n : n + 1]) for n in range(1, len(text.encode()))]
    tokenizer = BPETokenizer(merges)
    middle = text[1].encode().hex(" ").upper()
    assert picture(tokenizer, [tokenizer.vocab_size - 5]) == f"│a<{middle}>b│"


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_characters="<⏎⇥"), max_size=30))
def test_a_picture_tells_the_text_and_every_token(text):
    ids = BPE.encode(text)
    shown = picture(BPE, ids)
    assert shown.isprintable()
    assert shown.count("│") == len(ids) + 1
    parts = re.split("<([0-9A-F ]+)>", re.sub("│", "", shown))
    parts[::2] = [part.replace("⏎", "\n").replace("⇥", "\t").encode().hex() for part in parts[::2]]
    assert bytes.fromhex("".join(parts)) == text.encode("utf-8", "surrogatepass")


def test_a_tokenizer_that_does_not_tell_its_bytes_shows_ids():
    tokenizer = OnlyTheProtocol(BPE)
    first, second = BPE.encode("é")
    assert picture(tokenizer, BPE.encode("the é\n")) == f"│the│ │<id {first}>│<id {second}>│⏎│"


def test_the_space_before_a_piece_is_seen():
    assert picture(SENTENCEPIECE, SENTENCEPIECE.encode("a dog")) == "│ │a│ dog│"


def test_a_foreign_id_is_refused():
    with pytest.raises(TokenizerError, match="id 330 is not in the vocabulary"):
        picture(BPE, [330])


@pytest.mark.parametrize("number", [1, 2, 4, 5, 9])
def test_the_table_is_aligned_and_fits(number):
    named = {f"a rather long name, number {i} of 日本語" * (i + 1): BPE for i in range(number)}
    text = ["日本語 the quick brown\t" * 30, "é the\nfox" * 30_000]
    lines = compare(named, text).splitlines()
    assert max(map(display_width, lines)) <= 100
    tables = [lines[i + 1 : i + 13] for i, line in enumerate(lines) if line == ""][
        : -(-number // 4)
    ]
    for table in tables:
        assert len({display_width(line) for line in table}) == 1
        assert table[1].startswith("ids in the vocabulary")
    assert sum(table[1].count("330") for table in tables) == number


def test_the_table_says_what_was_measured():
    texts = ["", "the quick fox\n", *CORPUS]
    found = measure_all(ALL, texts)
    head, table, *pictures = compare(ALL, iter(texts)).split("\n\n")
    some = found["bpe"]
    assert head == f"{some.characters:,} characters of text, {some.bytes:,} bytes in UTF-8"
    longest = [m.longest[0] for m in found.values()]
    names, *rows = table.splitlines()
    assert names.split() == list(ALL)
    expected = {
        "ids in the vocabulary": [f"{m.vocab_size:,}" for m in found.values()],
        "tokens of the text": [f"{m.tokens:,}" for m in found.values()],
        "tokens per byte of text": [f"{m.tokens_per_byte:.3f}" for m in found.values()],
        "bytes of text per token": [f"{m.bytes_per_token:.2f}" for m in found.values()],
        "ids that the text uses": [f"{m.used:,} ({m.share_used:.1%})" for m in found.values()],
        "dead: tokens never used": [f"{len(m.dead_ids):,}" for m in found.values()],
        "longest tokens in use": [f"│{t.text}│ {t.count}×" for t in longest],
    }
    for row, (label, values) in zip(rows, expected.items(), strict=False):
        assert re.split("  +", row) == [label, *values]
    for (name, tokenizer), shown in zip(ALL.items(), pictures, strict=True):
        cut = picture(tokenizer, tokenizer.encode("the quick fox\n"))
        assert shown == f"The text begins, cut by {name}:\n{cut}"


def test_a_token_that_is_wider_than_a_line_is_cut():
    merges = [(b" " * 2**n, b" " * 2**n) for n in range(7)]
    *_, line = compare({"spaces": BPETokenizer(merges)}, " " * 128).splitlines()
    assert line == "│" + " " * 97 + "…│"


def test_only_the_beginning_is_pictured_up_to_a_word():
    *_, shown = compare({"bpe": BPE}, "the quick fox " * 1000).split("\n\n")
    pictured = "".join(shown.splitlines()[1:]).replace("│", "")
    assert ("the quick fox " * 1000).startswith(pictured + " ")
    assert 200 < len(pictured) <= 240


def test_without_text_the_numbers_are_zero():
    found = measure(BPE, [])
    assert (found.tokens, found.used, found.tokens_per_byte, found.longest) == (0, 0, 0.0, ())
    assert "0 characters of text" in compare({"bpe": BPE}, [])


def test_nothing_to_compare():
    with pytest.raises(TokenizerError, match="no tokenizers to compare; give at least one"):
        compare({}, ["text"])
