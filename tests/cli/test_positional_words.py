from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.cli.flags import CommandLine, parse
from gptlab.cli.generate import GenerateCommand
from gptlab.errors import ConfigError


class Collect(CommandLine):
    """Collect sources."""

    positional: ClassVar[str | None] = "sources"

    sources: tuple[str, ...] = ()
    """What is collected."""
    keywords: tuple[str, ...] = ()
    """Words to look for."""
    output: str | None = None
    """Where it goes."""
    overwrite: bool = False
    """Replace it."""


def parsed(*argv, command=Collect):
    return parse(command, list(argv), prog="gptlab-collect")


def given_values(*argv):
    command = parsed(*argv)
    return {name: getattr(command, name) for name in command.model_fields_set}


@pytest.mark.parametrize(
    "argv",
    [
        ["a", "b", "--output", "x", "--overwrite"],
        ["--output", "x", "a", "b", "--overwrite"],
        ["--output=x", "--overwrite", "a", "b"],
        ["a", "--output", "x", "b", "--overwrite"],
        ["--overwrite", "true", "a", "--output", "x", "b"],
        ["--overwrite", "--output", "x", "--", "a", "b"],
        ["--sources", "a", "b", "--overwrite", "--output", "x"],
        ["--sources=a", "b", "--overwrite", "--output", "x"],
        ["a", "--overwrite", "--output", "x", "--sources", "b"],
    ],
)
def test_bare_words_stand_anywhere_but_behind_a_list(argv):
    assert given_values(*argv) == {"sources": ("a", "b"), "output": "x", "overwrite": True}


def test_no_words_are_no_setting():
    assert given_values() == {}
    assert given_values("--") == {}
    assert given_values("--output", "x") == {"output": "x"}


def test_a_flag_of_several_values_takes_the_words_behind_it():
    assert given_values("a", "--keywords", "b", "c") == {"sources": ("a",), "keywords": ("b", "c")}
    assert given_values("--keywords=b", "c") == {"sources": ("c",), "keywords": ("b",)}
    assert given_values("--keywords", "b", "--", "c") == {"sources": ("c",), "keywords": ("b",)}


def test_values_of_lists_keep_their_commas():
    argv = ["x,y", "[1, 2]", "--keywords", "a,b", "c"]
    assert given_values(*argv) == {"sources": ("x,y", "[1, 2]"), "keywords": ("a,b", "c")}


def test_a_dash_is_standard_input():
    assert given_values("-", "--overwrite", "-") == {"sources": ("-", "-"), "overwrite": True}


def test_behind_two_dashes_nothing_is_a_flag():
    words = ("-x", "--output", "-h", "--", "--nothing=1", "")
    assert given_values("--overwrite", "--", *words) == {"sources": words, "overwrite": True}


@given(st.lists(st.text()))
def test_any_words_are_sources_behind_two_dashes(words):
    assert parsed("--", *words).sources == tuple(words)


@given(st.lists(st.text().filter(lambda word: word == "-" or not word.startswith("-"))))
def test_any_words_without_dashes_are_sources(words):
    assert parsed(*words, "--output", "x", *words).sources == tuple(words * 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-o", "x"], "there is no flag -o, for a flag has two dashes; known: output, overwrite"),
        (["-output=x"], "there is no flag -output=x, .* did you mean 'output'"),
        (["-outptu", "x"], "did you mean 'output'"),
        (["-z"], "there is no flag -z, .* known: config, debug, keywords"),
        (["a", "--outptu", "x"], "there is no flag --outptu; did you mean 'output'"),
        (["a", "--output", "--", "x"], "--output needs a value"),
        (["a", "--keywords", "--", "x"], "--keywords needs a value"),
    ],
)
def test_a_bad_word_is_one_line(argv, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parsed(*argv)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("text.txt", "'text.txt' stands alone"),
        ("-", "'-' stands alone"),
        ("--", "there is no flag --"),
        ("-p", "there is no flag -p, .* known: positions, precision, presence_penalty"),
    ],
)
def test_a_command_without_a_field_for_words_refuses_them(word, message):
    with pytest.raises(ConfigError, match=message):
        parsed(word, "x", command=GenerateCommand)


def test_help_says_where_words_go(capsys):
    with pytest.raises(SystemExit) as end:
        parsed("a", "--help")
    shown = capsys.readouterr().out
    assert end.value.code == 0
    assert shown.startswith("usage: gptlab-collect [SOURCES ...] [flags]\n\nCollect sources.\n")
    assert "SOURCES, as of --sources, stand in front of the flags" in shown
    assert "takes all words up to the next flag" in shown
    assert "What is collected." in shown


def test_help_of_a_command_without_words(capsys):
    with pytest.raises(SystemExit):
        parsed("--help", command=GenerateCommand)
    shown = capsys.readouterr().out
    assert shown.startswith("usage: gptlab-collect [flags]\n\nContinue a prompt")
    assert "all words" not in shown
