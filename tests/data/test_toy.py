"""The toy corpus: its grammar against enumeration, its files against the generator."""

import math
import random
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.data import toy
from gptlab.data.toy.derive import derivations, generate, log_probability
from gptlab.data.toy.moments import moments
from gptlab.data.toy.nodes import Bind, Choice, Literal, Match, Node, Sequence, Use
from gptlab.data.toy.rules import read_rows, read_rules, rows_without, template
from gptlab.errors import ConfigError, DataError

TOY_DATA = Path(__file__).parents[2] / "toy_data"
NAMES = ("tiny_sp_train.txt", "tiny_sp_test.txt")


def enumerate_texts(node: Node, memory: dict[str, str]) -> list[tuple[float, str]]:
    """The oracle: every derivation's probability and text, multiplied out."""
    match node:
        case Literal(text):
            return [(1.0, text)]
        case Use(key):
            return [(1.0, memory[key])]
        case Sequence(parts):
            whole = [(1.0, "")]
            for part in parts:
                here = enumerate_texts(part, memory)
                whole = [(p * q, left + right) for p, left in whole for q, right in here]
            return whole
        case Choice(options):
            return [(p * q, text) for p, o in options for q, text in enumerate_texts(o, memory)]
        case Bind(rows, body):
            return [
                (p * q, text)
                for p, forms in rows
                for q, text in enumerate_texts(body, memory | dict(forms))
            ]
        case Match(key, cases):
            return enumerate_texts(dict(cases)[memory[key]], memory)
    raise AssertionError(node)


def pets() -> Node:
    """A bound name decides what can follow, and comes back with its pronoun."""
    rules = read_rules("lively = 3 very_ | 1\nplay = 2 ran{lively} | 1 sat", {})
    food = tuple(
        (name, read_rules(f"food = {options}", {})["food"])
        for name, options in (("Mia", "1 fish | 1 milk"), ("Rex", "5 bone | 2 meat | 1 fish"))
    )
    source = "{name} {play}. {She} ate {lively}{food}. {name}!"
    body = template(source, {**rules, "food": Match("name", food)})
    return Bind(read_rows("name She", "3 Mia She | 1 Rex He"), body)


def two_friends() -> Node:
    """The second draw excludes the first, and a third one depends on both."""
    people = read_rows("first", "3 Ann | 2 Bo | 1 Cy")
    friends = read_rows("second", "3 Ann | 2 Bo | 1 Cy")
    mood = tuple(
        (name, read_rules(f"m = {i} up | 1 down", {})["m"])
        for i, name in enumerate(("Ann", "Bo", "Cy"), start=1)
    )
    meeting = template("{first} met {second}, {mood}", {"mood": Match("second", mood)})
    cases = tuple(
        (forms[0][1], Bind(rows_without(forms[0][1], friends), meeting)) for _, forms in people
    )
    return Bind(people, Match("first", cases))


def shadowed() -> Node:
    """An inner binding of the same key hides the outer one, only inside its body."""
    inner = Bind(read_rows("x", "1 c | 2 dddd"), template("({x}{x})", {}))
    return Bind(read_rows("x", "1 a | 3 bb"), template("{x}{inner}{x}", {"inner": inner}))


def ambiguous() -> Node:
    """Four derivations, two of which give the text `aa`."""
    return read_rules("part = 2 a | 1 aa\nwhole = 1 {part}{part} | 2 {part}", {})["whole"]


GRAMMARS = pytest.mark.parametrize("make", [pets, two_friends, shadowed])


@GRAMMARS
def test_hand_made_grammars_are_unambiguous_and_sum_to_one(make):
    texts = enumerate_texts(make(), {})
    assert len({text for _, text in texts}) == len(texts) > 3
    assert math.fsum(p for p, _ in texts) == pytest.approx(1, rel=1e-12)


@GRAMMARS
def test_moments_equal_enumeration(make):
    texts = enumerate_texts(make(), {})
    found = moments(make())
    assert found.entropy == pytest.approx(-math.fsum(p * math.log(p) for p, _ in texts), rel=1e-12)
    assert found.characters == pytest.approx(math.fsum(p * len(t) for p, t in texts), rel=1e-12)


@pytest.mark.parametrize("make", [pets, two_friends, shadowed, ambiguous])
def test_log_probability_equals_enumeration(make):
    total: dict[str, float] = {}
    for p, text in enumerate_texts(make(), {}):
        total[text] = total.get(text, 0.0) + p
    for text, p in total.items():
        assert log_probability(make(), text) == pytest.approx(math.log(p), rel=1e-12)
    for text in ("", "a", "Mia", *(text + "!" for text in total)):
        if text not in total:
            assert log_probability(make(), text) is None


def grammars() -> st.SearchStrategy[Node]:
    """Small grammars over two keys that are always bound, ambiguous ones among them."""
    leaves = st.one_of(st.text("ab", max_size=2).map(Literal), st.sampled_from("xy").map(Use))

    def distribution(values):
        weights = st.lists(st.tuples(st.integers(1, 5), values), min_size=1, max_size=3)
        return weights.map(
            lambda pairs: tuple((w / sum(w for w, _ in pairs), value) for w, value in pairs)
        )

    def bigger(inner):
        binds = st.sampled_from("xy").flatmap(
            lambda key: st.builds(
                Bind,
                distribution(st.sampled_from(("p", "qq")).map(lambda text: ((key, text),))),
                inner,
            )
        )
        matches = st.builds(
            lambda key, p, q: Match(key, (("p", p), ("qq", q))), st.sampled_from("xy"), inner, inner
        )
        sequences = st.lists(inner, max_size=3).map(lambda parts: Sequence(tuple(parts)))
        return st.one_of(sequences, distribution(inner).map(Choice), binds, matches)

    return st.recursive(leaves, bigger, max_leaves=8).map(
        lambda node: Bind(
            tuple((0.25, (("x", x), ("y", y))) for x in ("p", "qq") for y in ("p", "qq")), node
        )
    )


@settings(max_examples=150, deadline=None)
@given(grammars(), st.integers(0, 2**32))
def test_any_grammar_agrees_with_enumeration(grammar, seed):
    texts = enumerate_texts(grammar, {})
    found = moments(grammar)
    entropy = -math.fsum(p * math.log(p) for p, _ in texts)
    assert found.entropy == pytest.approx(entropy, rel=1e-9, abs=1e-9)
    assert found.characters == pytest.approx(math.fsum(p * len(t) for p, t in texts), abs=1e-9)
    drawn = generate(grammar, random.Random(seed), {})
    probability = math.fsum(p for p, text in texts if text == drawn)
    assert log_probability(grammar, drawn) == pytest.approx(math.log(probability), abs=1e-9)


def test_generate_draws_by_the_stated_probabilities():
    rng = random.Random(0)
    drawn = [generate(two_friends(), rng, {}) for _ in range(4000)]
    for p, text in enumerate_texts(two_friends(), {}):
        deviation = math.sqrt(p * (1 - p) / len(drawn))
        assert drawn.count(text) / len(drawn) == pytest.approx(p, abs=4 * deviation)


def test_grammar_mistakes_are_refused():
    with pytest.raises(ValueError, match="used but not bound: name"):
        moments(template("{name}!", {}))
    with pytest.raises(ValueError, match="add up to 1"):
        Choice(((0.5, Literal("a")), (0.4, Literal("b"))))
    with pytest.raises(ValueError, match="positive"):
        Choice(((1.0, Literal("a")), (0.0, Literal("b"))))
    with pytest.raises(ValueError, match="same keys"):
        Bind(((0.5, (("x", "a"),)), (0.5, (("y", "b"),))), Literal(""))
    with pytest.raises(KeyError, match="no case for x='a'"):
        generate(Match("x", (("b", Literal("")),)), random.Random(0), {"x": "a"})


@pytest.fixture(scope="module")
def sample() -> list[str]:
    return toy.generate_stories(2500, seed=20)


def test_shipped_files_are_what_the_generator_writes(tmp_path):
    paths = toy.write_toy_corpus(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == list(NAMES)
    assert sorted(path.name for path in paths[0].parent.iterdir()) == sorted(NAMES)
    for path in paths:
        assert path.read_bytes() == (TOY_DATA / path.name).read_bytes()
    assert toy.write_toy_corpus(paths[0].parent) == paths


def test_shipped_files_have_the_stated_form():
    train, test = ((TOY_DATA / name).read_bytes().decode("ascii") for name in NAMES)
    assert 70_000 < len(train) < 80_000
    assert 18_000 < len(test) < 22_000
    stories = []
    for text, count in ((train, toy.TRAIN_STORIES), (test, toy.TEST_STORIES)):
        assert text.endswith(".\n") or text.endswith('"\n')
        stories.append(text.removesuffix("\n").split("\n\n"))
        assert len(stories[-1]) == count
        assert toy.story_text(stories[-1]) == text
        assert not any("\n" in story for story in stories[-1])
    assert len(set(stories[0]) | set(stories[1])) == toy.TRAIN_STORIES + toy.TEST_STORIES


def test_shared_stories_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "TEST_SEED", toy.TRAIN_SEED)
    with pytest.raises(DataError, match="share 67 stories"):
        toy.write_toy_corpus(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unwritable_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't write the toy corpus"):
        toy.write_toy_corpus(tmp_path / "file")


def test_entropy_is_the_mean_surprise_of_stories(sample):
    surprise = [-toy.log_likelihood(story) for story in sample]
    error = statistics.stdev(surprise) / math.sqrt(len(sample))
    assert statistics.mean(surprise) == pytest.approx(toy.entropy_per_story(), abs=4 * error)


def test_expected_characters_is_the_mean_length_with_separator(sample):
    lengths = [len(story) + len("\n\n") for story in sample]
    error = statistics.stdev(lengths) / math.sqrt(len(sample))
    expected = toy.expected_characters_per_story()
    assert statistics.mean(lengths) == pytest.approx(expected, abs=4 * error)
    assert 0.24 < toy.entropy_per_story() / expected < 0.45


def test_every_story_has_one_derivation(sample):
    for story in sample[:1000]:
        ends = [end for end, _ in derivations(toy.STORY, story, 0, {})]
        assert ends.count(len(story)) == 1


def test_stories_read_like_stories(sample):
    words = {word.lower() for story in sample for word in re.findall("[A-Za-z]+", story)}
    assert 150 < len(words) < 250
    for story in sample:
        spoken = re.findall(r'"[^"]*"', story)
        outside = re.sub(r'"[^"]*" (said|cried|laughed|thought) [^.]*', "S", story)
        outside = re.sub(r'"[^"]*"', "S.", outside)
        assert 4 <= outside.count(".") <= 7, story
        assert len(spoken) <= 2
        assert story.isascii()
        assert re.fullmatch(r"[A-Za-z ,.!?\"]+", story)
        assert "  " not in story
        assert not re.search(r"\ba [aeiou]", story)


def test_hero_and_thing_come_back(sample):
    opening = re.compile(r"^(?:One|On a) \w+ \w+, (?:(\w+) the \w+ \w+|a \w+ \w+ named (\w+))")
    for story in sample[:200]:
        match = opening.match(story)
        name = match[1] or match[2]
        thing = re.search(r"with (?:her|his) \w+ \w+ (\w+)\.", story)[1]
        rest = story[story.index(".") :]
        assert f" {thing}" in rest
        pronoun = re.search(r"with (her|his)", story)[1]
        other = {"her": "He", "his": "She"}[pronoun]
        assert f" {other} " not in rest
        assert f"{name} the" not in rest


def test_separators_cost_nothing(sample):
    text = toy.story_text(sample[:3])
    total = math.fsum(toy.log_likelihood(story) for story in sample[:3])
    assert toy.log_likelihood(text) == pytest.approx(total, rel=1e-12)
    assert toy.log_likelihood(text.removesuffix("\n")) == toy.log_likelihood(text)


@pytest.mark.parametrize("text", ["", "\n", "\n\n", "The cat sat on the mat.", "One sunny day, "])
def test_other_text_is_impossible(text):
    assert toy.log_likelihood(text) is None


def test_broken_framing_is_impossible(sample):
    one, two = sample[:2]
    for text in (one + "\n" + two, one + " " + two, one + "\n\n", "\n" + one, one + "\n\n\n" + two):
        assert toy.log_likelihood(text) is None


def test_a_missing_word_is_impossible(sample):
    needed = {"One", "On", "named", "with", "to", "her", "his", "and", "a", "into", "found"}
    for story in sample[:50]:
        words = story.split(" ")
        for at, word in enumerate(words):
            if word in needed:
                assert toy.log_likelihood(" ".join(words[:at] + words[at + 1 :])) is None


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 29), st.integers(0, 400), st.sampled_from('abz .,"\n'))
def test_an_inserted_character_is_impossible(story, at, character):
    text = toy.generate_stories(story + 1, seed=5)[story]
    at = min(at, len(text) - 1)
    assert toy.log_likelihood(text[:at] + character + text[at:]) is None


def test_a_swapped_name_is_impossible(sample):
    found = 0
    for story in sample[:100]:
        match = re.match(r"^.*?, (\w+) the ", story)
        if match and story.count(match[1]) > 1:
            stranger = "Ben" if "Ben" not in story else "Zoe"
            swapped = story.replace(match[1], "@", 1).replace(match[1], stranger, 1)
            assert toy.log_likelihood(swapped.replace("@", match[1])) is None
            found += 1
    assert found > 20


def test_stories_depend_on_the_seed_alone():
    random.seed(1)
    first = toy.generate_stories(20, seed=3)
    random.seed(2)
    assert toy.generate_stories(20, seed=3) == first
    assert toy.generate_stories(5, seed=3) == first[:5]
    assert toy.generate_stories(20, seed=4) != first
    assert toy.generate_stories(0, seed=3) == []
    with pytest.raises(ConfigError, match="-1"):
        toy.generate_stories(-1, seed=3)


def test_what_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "tiny_sp_train.txt").write_text("my own")
    toy.write_toy_corpus(tmp_path)
    assert (tmp_path / "tiny_sp_train.txt").read_text() == "my own"
    assert toy.log_likelihood((tmp_path / "tiny_sp_test.txt").read_text()) is not None
