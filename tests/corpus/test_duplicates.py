"""Duplicates by slow comparison of all pairs, and runs that were interrupted anywhere."""

import hashlib
import random
import re
import sys

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptlab.corpus import duplicates as module
from gptlab.corpus.duplicates import Duplicate, Duplicates
from gptlab.corpus.signature import _shingles, content_hash, signature
from gptlab.errors import DataError

exact_examples = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def words(count, seed):
    """A text of that many words at random."""
    numbers = random.Random(seed)
    return [f"w{numbers.randrange(10**9)}" for _ in range(count)]


def slow_shingles(text):
    found = re.findall(r"\w+", text)
    return {tuple(found[place : place + 5]) for place in range(max(len(found) - 4, 1))}


def slow_jaccard(one, other):
    one, other = slow_shingles(one), slow_shingles(other)
    return len(one & other) / len(one | other)


def estimate(one, other):
    return np.mean(signature(one) == signature(other))


def verdicts(duplicates, texts, start=0):
    return [
        duplicates.verdict(f"n{number}", content_hash(text), signature(text))
        for number, text in enumerate(texts, start)
    ]


def test_a_content_hash_is_blake2b():
    assert content_hash("aé") == hashlib.blake2b("aé".encode(), digest_size=16).digest()
    assert len({content_hash(text) for text in ("", " ", "a", "\ud800", "\ud801", "?")}) == 6


@pytest.mark.parametrize("script", ["", "é", "漢 \ud800 "], ids=ascii)
@pytest.mark.parametrize("changed", [0, 1, 4, 15, 60, 300])
def test_signatures_estimate_the_jaccard_index(script, changed):
    one = words(600, seed=1)
    other = list(one)
    for place in random.Random(changed).sample(range(600), changed):
        other[place] = f"changed{place}"
    one, other = " ".join([script, *one]), "\n".join([script, *other])
    # Four standard deviations of 128 draws.
    bound = 4 * 0.5 / 128**0.5
    assert estimate(one, other) == pytest.approx(slow_jaccard(one, other), abs=bound)
    assert changed or estimate(one, other) == 1


def test_estimates_are_right_on_average():
    differences = []
    for seed in range(40):
        shared = words(300, seed)
        one, other = (" ".join(shared + words(150, seed=f"{seed} {side}")) for side in "ab")
        differences.append(estimate(one, other) - slow_jaccard(one, other))
    assert abs(np.mean(differences)) < 4 * 0.5 / (128 * 40) ** 0.5


def test_a_signature_is_of_words_alone():
    text = " ".join(words(2000, seed=2))
    assert signature(text).shape == (128,)
    assert signature(text).dtype == np.uint32
    assert (signature(text) == signature(text.replace(" ", " ,\n"))).all()
    assert (signature(text) == signature(f"{text} — … ")).all()
    assert estimate(text, text.upper()) == 0


def test_a_signature_is_datasketchs():
    text = " ".join(words(2000, seed=3))
    sketch = MinHash(num_perm=128, hashfunc=int)
    for shingle in _shingles(text):
        sketch.update(shingle)
    assert (signature(text) == sketch.hashvalues).all()


@given(text=st.text("ab é漢_.\n", max_size=60))
def test_a_shingle_has_one_hash(text):
    assert len(set(_shingles(text).tolist())) == len(slow_shingles(text))


@pytest.mark.parametrize("text", ["a", "a b c d", "漢 é", ""])
def test_a_short_text_is_one_shingle(text):
    assert estimate(text, text) == 1
    assert (signature(text) == signature(f"{text}.")).all() == (text != "")
    assert estimate(text, f"{text} x") == 0


def test_texts_without_words_are_unlike():
    assert estimate("...", "!!!") == 0


def test_order_and_place_make_a_shingle():
    shingles = ["a b c d e", "b a c d e", "e d c b a", "a a a a a", "b b b b b", "a b"]
    assert len({signature(text).tobytes() for text in shingles}) == len(shingles)


def test_an_exact_duplicate_is_the_same_text(tmp_path):
    duplicates = Duplicates(tmp_path / "a" / "b", exact=True, near=None)
    found = verdicts(duplicates, ["a", "b", "a", "a ", "b", "a"])
    first, second = Duplicate("duplicate", "n0"), Duplicate("duplicate", "n1")
    assert found == [None, None, first, None, second, first]
    assert duplicates.state() == 3
    duplicates.close()


def test_without_either_nothing_is_a_duplicate(tmp_path):
    duplicates = Duplicates(tmp_path, exact=False, near=None)
    assert verdicts(duplicates, ["a", "a"]) == [None, None]
    assert duplicates.state() == 0


@pytest.mark.parametrize("exact", [False, True])
def test_a_near_duplicate_resembles_an_earlier_document(tmp_path, exact):
    base = words(500, seed=4)
    near, far = list(base), list(base)
    near[250] = "other"
    far[::12] = ["other"] * len(far[::12])
    texts = [" ".join(text) for text in (base, words(500, seed=5), near, far, near)]
    texts += [texts[0], texts[0] + "."]
    duplicates = Duplicates(tmp_path, exact=exact, near=0.8)
    alike, same = Duplicate("near duplicate", "n0"), Duplicate("duplicate", "n0")
    assert slow_jaccard(texts[0], texts[2]) > 0.97
    assert slow_jaccard(texts[0], texts[3]) < 0.5
    assert verdicts(duplicates, texts) == [None, None, alike, None, alike, same, alike]
    assert duplicates.state() == 3


def chain(count):
    """Texts each of which resembles its neighbours, and the less the farther they are apart."""
    supply = words(count * 6 + 200, seed=6)
    return [" ".join(supply[start * 6 : start * 6 + 200]) for start in range(count)]


def test_the_first_document_that_is_alike_is_the_original(tmp_path):
    texts = chain(24)
    random.Random(7).shuffle(texts)
    duplicates = Duplicates(tmp_path, exact=True, near=0.7)
    kept = []
    for number, found in enumerate(verdicts(duplicates, texts)):
        alike = [name for name in kept if estimate(texts[name], texts[number]) >= 0.7]
        if found is None:
            kept.append(number)
        else:
            assert found == Duplicate("near duplicate", f"n{alike[0]}")
    assert 2 < len(kept) < len(texts) - 5


def test_the_threshold_itself_is_near(tmp_path):
    duplicates = Duplicates(tmp_path, exact=False, near=0.75)
    signatures = np.tile(np.arange(128, dtype=np.uint32), (3, 1))
    signatures[1, 128 - 33 :] += 1000
    signatures[2, 128 - 32 :] += 2000
    found = [duplicates.verdict(f"n{n}", bytes([n]) * 16, signatures[n]) for n in range(3)]
    assert found == [None, None, Duplicate("near duplicate", "n0")]


@pytest.mark.parametrize("near", [0.001, 0.5, 0.95, 0.99, 0.9999])
def test_any_threshold_serves(tmp_path, near):
    duplicates = Duplicates(tmp_path, exact=False, near=near)
    text = " ".join(words(50, seed=8))
    found = verdicts(duplicates, [text, text + "!", " ".join(words(50, seed=9))])
    assert found == [None, Duplicate("near duplicate", "n0"), None]


POOL = [*chain(6), "a", "a.", "b", "", "\ud800", "né"]


@exact_examples
@given(
    picks=st.lists(st.sampled_from(POOL), max_size=12),
    cut=st.integers(0, 12),
    behind=st.lists(st.sampled_from(POOL), max_size=4),
    near=st.sampled_from([None, 0.7]),
    half=st.binary(max_size=700),
)
def test_a_restored_run_goes_on_as_if_it_had_not_stopped(
    tmp_path_factory, picks, cut, behind, near, half
):
    folder = tmp_path_factory.mktemp("seen")
    straight = Duplicates(folder / "straight", exact=True, near=near)
    expected = verdicts(straight, picks)

    killed = Duplicates(folder / "killed", exact=True, near=near)
    found = verdicts(killed, picks[:cut])
    count = killed.state()
    # What came after the last state is lost, and may be half written.
    verdicts(killed, behind)
    killed.close()
    for path in (folder / "killed").iterdir():
        path.write_bytes(path.read_bytes() + half)

    resumed = Duplicates(folder / "killed", exact=True, near=near)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BATCH_ENTRIES", 2)
        resumed.restore(count)
    assert resumed.state() == count
    found += verdicts(resumed, picks[cut:], start=cut)
    assert found == expected
    assert resumed.state() == straight.state()
    for name in ("entries.bin", "names.bin"):
        assert (folder / "killed" / name).read_bytes() == (folder / "straight" / name).read_bytes()


def test_restoring_forgets_what_was_seen_since(tmp_path):
    duplicates = Duplicates(tmp_path, exact=True, near=0.8)
    verdicts(duplicates, ["a", "b"])
    duplicates.restore(1)
    again = verdicts(duplicates, ["b", "a", "b"], start=2)
    assert again == [None, Duplicate("duplicate", "n0"), Duplicate("duplicate", "n2")]


def test_a_new_run_takes_nothing_from_an_older_one(tmp_path):
    old = Duplicates(tmp_path, exact=True, near=None)
    verdicts(old, [str(number) for number in range(9)])
    old.close()
    new = Duplicates(tmp_path, exact=True, near=None)
    assert verdicts(new, ["8", "0"]) == [None, None]
    count = new.state()
    new.close()
    resumed = Duplicates(tmp_path, exact=True, near=None)
    resumed.restore(count)
    again = verdicts(resumed, ["7", "0", "8"], start=2)
    assert again == [None, Duplicate("duplicate", "n1"), Duplicate("duplicate", "n0")]


@pytest.mark.parametrize("name", ["entries.bin", "names.bin"])
def test_shortened_files_are_refused(tmp_path, name):
    duplicates = Duplicates(tmp_path, exact=True, near=None)
    verdicts(duplicates, ["a", "b"])
    count = duplicates.state()
    duplicates.close()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name} is shorter than it was"):
        Duplicates(tmp_path, exact=True, near=None).restore(count)


def test_names_of_any_characters_come_back(tmp_path):
    duplicates = Duplicates(tmp_path, exact=True, near=None)
    names = ["", "é\udcff", "a, line 3\n", "\ud800"]
    hashes = [bytes([number]) + bytes(15) for number in range(4)]
    for name, digest in zip(names, hashes, strict=True):
        assert duplicates.verdict(name, digest, None) is None
    duplicates.restore(4)
    found = [duplicates.verdict("again", digest, None).original for digest in hashes]
    assert found == names


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(
        DataError, match=r"needs the package datasketch; run pip install 'gptlab\[d"
    ):
        Duplicates(tmp_path, exact=False, near=0.5)
    Duplicates(tmp_path, exact=True, near=None).close()
