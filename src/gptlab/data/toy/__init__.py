"""The shipped toy corpus: small stories from a grammar of our own, with known entropy.

A story has four to seven sentences: a hero takes a thing to a place, something happens to the
thing, the hero puts it right alone or with a friend, and all ends well. Names, pronouns, animals
and things come back as they were introduced, so a model that looks back predicts better.

What makes the corpus a measuring stick: no two derivations give the same text, so the entropy of
a story is the entropy of its draws, and is known exactly. A model's loss in nats per character,
less `entropy_per_story() / expected_characters_per_story()`, is its distance from the best that
any model can do on average; against `log_likelihood` of a held-out text it is the distance on
that very text. Only stories are random here: they are independent and identically distributed,
the separators between them are certain, and their number is taken as given.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from gptlab.data.toy.derive import generate, log_probability
from gptlab.data.toy.files import write_missing
from gptlab.data.toy.moments import moments
from gptlab.data.toy.story import STORY
from gptlab.errors import ConfigError, DataError

# About 75 and 20 KB, small enough to ship with the source.
TRAIN_STORIES = 250
TEST_STORIES = 67
TRAIN_SEED = 1
TEST_SEED = 2
SEPARATOR = "\n\n"


def generate_stories(count: int, *, seed: int) -> list[str]:
    """Draw stories, each one paragraph without a line break.

    The same seed gives the same stories on every platform and Python version, and a smaller count
    gives the beginning of a larger one.

    Raises:
        ConfigError: The count is negative.
    """
    if count < 0:
        raise ConfigError(f"count of stories is {count}; give 0 or more")
    rng = random.Random(seed)
    return [generate(STORY, rng, {}) for _ in range(count)]


def story_text(stories: Sequence[str]) -> str:
    """Join stories into one text: a blank line between two, one newline at the end."""
    return SEPARATOR.join(stories) + "\n"


def entropy_per_story() -> float:
    """Return the exact entropy of a story in nats, computed from the grammar, not sampled."""
    return moments(STORY).entropy


def expected_characters_per_story() -> float:
    """Return the exact expected length of a story, with its two-character separator.

    The separator is counted because a model reads and predicts it too, at no entropy. A text of
    n stories has one character less than n times a story's length with separator, as it ends with
    a single newline.
    """
    return moments(STORY).characters + len(SEPARATOR)


def log_likelihood(text: str) -> float | None:
    """Return the log probability of a text of stories in nats, or None where it is not one.

    It sums over the stories, which are independent, and within a story over all derivations;
    separators cost nothing and the number of stories is taken as given. The newline at the end
    may be missing, so that a single story is a text too.
    """
    total = 0.0
    for story in text.removesuffix("\n").split(SEPARATOR):
        story_log_probability = log_probability(STORY, story)
        if story_log_probability is None:
            return None
        total += story_log_probability
    return total


def write_toy_corpus(folder: Path) -> tuple[Path, Path]:
    """Write `tiny_sp_train.txt` and `tiny_sp_test.txt` into a folder, made where it is missing.

    The bytes are always the same, and a reader never sees half of a file; one that exists is left
    as it is. Returns the two paths.

    Raises:
        DataError: The two would share a story, or a file can't be written.
    """
    train = generate_stories(TRAIN_STORIES, seed=TRAIN_SEED)
    test = generate_stories(TEST_STORIES, seed=TEST_SEED)
    # Skipping shared stories would make the test set a slightly different distribution from the
    # one whose entropy we state. A story's probability is around e**-80, so none is ever shared.
    if shared := set(train) & set(test):
        raise DataError(f"train and test share {len(shared)} stories; change TEST_SEED")
    contents = {"tiny_sp_train.txt": train, "tiny_sp_test.txt": test}
    paths = write_missing(
        folder, {name: story_text(part).encode("ascii") for name, part in contents.items()}
    )
    return paths[0], paths[1]
