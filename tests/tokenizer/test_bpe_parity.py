"""The same merges as the trainers of others, on the texts that tend to tell trainers apart."""

import json
import unicodedata
from random import Random

import pytest
import rustbpe
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from gptlab.tokenizer import train_bpe
from gptlab.tokenizer.chunks.patterns import SPLIT_PATTERNS
from gptlab.tokenizer.formats.alphabet import spelled_bytes

NUM_MERGES = 700


def words_of(first, last, count=400):
    """Made-up words of characters that are in the tables of every library."""
    random = Random(first)
    known = [chr(code) for code in range(first, last) if unicodedata.category(chr(code)) != "Cn"]
    words = ["".join(random.choices(known, k=random.randint(1, 6))) for _ in range(60)]
    return [random.choice(words) for _ in range(count)]


SCRIPTS = {
    "latin": (0xC0, 0x250),
    "greek and cyrillic": (0x370, 0x500),
    "hebrew and arabic": (0x5D0, 0x6D4),
    "indic": (0x904, 0xA00),
    "thai": (0xE01, 0xE5C),
    "kana": (0x3041, 0x30FF),
    "han": (0x4E00, 0x5200),
    "hangul": (0xAC00, 0xAE00),
    "emoji": (0x1F300, 0x1F650),
    "mathematical": (0x1D400, 0x1D500),
}
INVALID = Random(0).randbytes(20_000) + "déjà vu, 日本語".encode() * 50
TEXTS = {
    **{name: " ".join(words_of(*codes)) for name, codes in SCRIPTS.items()},
    "all scripts": "\n".join(" ".join(words_of(*codes)) for codes in SCRIPTS.values()),
    "combining marks": "e\u0301 a\u0308o\u0308 n\u0303\u0301 \u0301\u0301x " * 60,
    "joined emoji": "👩\u200d👩\u200d👧 🏳\ufe0f\u200d🌈 🇫🇷🇩🇪 👍🏽 " * 60,
    "invalid UTF-8": "".join(
        c for c in INVALID.decode("utf-8", "replace") if unicodedata.category(c) != "Cn"
    ),
    "NULs": "a\0b \0\0 \0\0\0\n" * 90,
    "a million characters in a line": " ".join(words_of(0x61, 0x7B) + words_of(0xE0, 0xF8)) * 300,
    "long chunks": "ab" * 2000 + "abc" * 2000 + " " + "x" * 999,
    "overlapping runs": " ".join("a" * (n % 17) + "b" * (n % 5) for n in range(600)),
    "blanks": "".join(" " * (n % 9) + "\n" * (n % 3) + "\t" * (n % 2) + "x" for n in range(500)),
    "digits": " ".join(str(7**n) for n in range(90)),
    "quotes": "I'll don't 'S \"it's\" he'LL ''s 's' we've y'all 'ſt\n" * 40,
}
cases = pytest.mark.parametrize("name", TEXTS)
patterns = pytest.mark.parametrize("pattern", sorted(SPLIT_PATTERNS))


def merges_of(text, pattern, **options):
    return train_bpe(
        texts=[text], vocab_size=256 + NUM_MERGES, pattern=pattern, special_tokens=(), **options
    ).merges


@cases
@patterns
def test_same_merges_as_rustbpe(name, pattern):
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator([TEXTS[name]], 256 + NUM_MERGES, pattern=SPLIT_PATTERNS[pattern])
    by_rank = sorted(peer.get_mergeable_ranks(), key=lambda token: token[1])
    theirs = [bytes(token) for token, _ in by_rank[256:]]
    assert [left + right for left, right in merges_of(TEXTS[name], pattern)] == theirs


@cases
@patterns
def test_same_merges_as_hugging_face(name, pattern):
    peer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERNS[pattern]), "isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    peer.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_only])
    trainer = trainers.BpeTrainer(
        vocab_size=256 + NUM_MERGES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    peer.train_from_iterator([TEXTS[name]], trainer)
    spelled = json.loads(peer.to_str())["model"]["merges"]
    theirs = [(spelled_bytes(left), spelled_bytes(right)) for left, right in spelled]
    assert merges_of(TEXTS[name], pattern, tie_break="huggingface") == theirs
