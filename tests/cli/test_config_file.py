from typing import ClassVar

import pytest

from gptlab.cli.config_file import read_config
from gptlab.cli.flags import CommandLine, parse
from gptlab.cli.generate import GenerateCommand
from gptlab.cli.tokenize import TokenizeCommand, main
from gptlab.cli.train import TrainCommand
from gptlab.config import PrepareConfig
from gptlab.errors import ConfigError

RECIPE = """
[tokenize]
train = ["notes", "more.jsonl"]
type = "default"
vocab_size = 300

[prepare]
sources = ["notes", "src/**/*.py"]
keywords = ["a,b", "c"]
max_lines = 9

[train]
preset = "tiny"
seq_len = 32
"""


class Prepare(PrepareConfig, CommandLine):
    """Turn a corpus into a dataset."""

    positional: ClassVar[str | None] = "sources"


COMMANDS = {
    "tokenize": TokenizeCommand,
    "prepare": Prepare,
    "train": TrainCommand,
    "generate": GenerateCommand,
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def parsed(name, file, *argv):
    return parse(COMMANDS[name], ["--config", str(file), *argv], prog=f"gptlab-{name}")


def refused(name, file, content):
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        parsed(name, file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_command_reads_its_own_table(file):
    tokenize = parsed("tokenize", file)
    assert tokenize.train == ("notes", "more.jsonl")
    assert tokenize.tokenizer_type == "default"
    assert tokenize.model_fields_set == {"train", "tokenizer_type", "vocab_size", "config"}
    prepare = parsed("prepare", file)
    assert prepare.sources == ("notes", "src/**/*.py")
    assert prepare.keywords == ("a", "b", "c")
    assert prepare.model_fields_set == {"sources", "keywords", "max_lines", "config"}
    train = parsed("train", file)
    assert (train.embed_dim, train.seq_len) == (64, 32)


def test_flags_and_words_go_over_the_table(file):
    prepare = parsed("prepare", file, "other", "--max_lines", "3")
    assert (prepare.sources, prepare.max_lines) == (("other",), 3)
    assert prepare.keywords == ("a", "b", "c")


def test_a_table_reads_as_the_flat_file_with_its_lines(file, tmp_path):
    flat = tmp_path / "flat.toml"
    for name, lines in (part.split("]\n", 1) for part in RECIPE.split("\n[")[1:]):
        flat.write_text(lines)
        assert read_config(flat, command=name) == read_config(file, command=name)


@pytest.mark.parametrize("content", ["", "# nothing\n", "[generate]\n"])
def test_a_file_may_hold_nothing(file, content):
    file.write_text(content)
    assert parsed("generate", file).model_fields_set == {"config"}


def test_one_value_of_a_list_needs_no_brackets(file):
    file.write_text('sources = "notes, a.txt"\nkeywords = "a,b"\nfield = "body"\n')
    prepare = parsed("prepare", file)
    assert prepare.sources == ("notes, a.txt",)
    assert prepare.keywords == ("a", "b")
    assert prepare.field == "body"


def test_json_may_have_tables_too(tmp_path):
    file = tmp_path / "recipe.json"
    file.write_text('{"prepare": {"sources": ["a"]}, "train": {"seq_len": 32}}')
    assert parsed("prepare", file).sources == ("a",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("generate", RECIPE, "has [tokenize], [prepare], [train], but no table for this command"),
        ("generate", RECIPE, "write its settings below [generate]"),
        ("train", "seq_len = 3\n[train]\n", "'seq_len' stands outside of its tables [train]"),
        ("train", "seq_len = 3\n[model]\nembed_dim = 4", "or leave the tables' names out"),
        ("train", "[model]\nembed_dim = 4", "has [model], but no table for this command"),
        ("train", "[train]\n[train.model]\nembed_dim = 4", "settings are flat"),
        ("train", "[[train]]\nseq_len = 3", "has [[train]], a list of tables; write [train]"),
        ("train", "[train]\n[train]\n", "is not valid"),
        ("train", "[train]\nseq_lenn = 3", "no setting 'seq_lenn'; did you mean 'seq_len'"),
        ("prepare", "[prepare]\nsource = ['a']", "no setting 'source'; did you mean 'sources'"),
        ("prepare", "[prepare]\nsources = [1]", "sources.0 is 1"),
        ("prepare", "preset = 'nothing'", "there is no setting 'preset'"),
        ("tokenize", "[tokenize]\nvocab = 3", "did you mean 'vocab_size'"),
        ("train", "config = 'b.toml'", "has config = 'b.toml', but one file can't name another"),
        ("train", "[train]\nconfig = 'b.toml'", "one file can't name another"),
    ],
)
def test_a_bad_file_names_the_way_out(file, name, content, message):
    assert message in refused(name, file, content)


def test_unknown_tables_of_others_are_theirs(file):
    file.write_text("[train]\nseq_len = 3\n[another]\nkey = 1\n")
    assert parsed("train", file).seq_len == 3


def test_a_tokenizer_is_trained_by_a_recipe(workplace, command):
    (workplace / "x.toml").write_text(
        '[tokenize]\ntrain = ["text.txt"]\nvocab_size = 270\noutput = "made"\n'
    )
    code, _, err = command(main, "--config", "x.toml")
    assert code == 0, err
    assert (workplace / "made").is_dir()
