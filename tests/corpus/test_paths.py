"""Paths in little memory are as a tuple of them."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gptlab.corpus.paths import Paths

names = st.lists(st.sampled_from(["a", "b/c", "/d", "é f"]))


@given(names)
def test_as_a_tuple_without_repetitions(texts):
    expected = tuple(dict.fromkeys(map(Path, texts)))
    for paths in (Paths(texts), Paths(map(Path, texts))):
        assert paths == expected
        assert hash(paths) == hash(Paths(expected))
        assert tuple(paths) == expected
        assert len(paths) == len(expected)
        assert [paths[index] for index in range(-len(paths), len(paths))] == [*expected] * 2
        assert paths[1:] == expected[1:]
        assert all(path in paths for path in expected)
        assert Path("other") not in paths


def test_others_are_not_equal():
    assert Paths(["a"]) != Paths(["b"])
    assert Paths(["a"]) != "a"
    assert repr(Paths(["a"])) == "Paths(['a'])"
