import json

import pytest

from gptlab.cli.flags import CommandLine, parse
from gptlab.cli.generate import GenerateCommand
from gptlab.cli.train import TrainCommand
from gptlab.errors import ConfigError


def parsed(*argv, command=TrainCommand):
    return parse(command, list(argv), prog="test")


def test_nothing_given_is_nothing_set():
    assert parsed().model_fields_set == set()


@pytest.mark.parametrize(
    "argv",
    [
        ["--learning_rate", "0.5"],
        ["--learning-rate", "0.5"],
        ["--learning_rate=0.5"],
        ["--learning-rate=5e-1"],
    ],
)
def test_a_flag_is_spelled_with_underscores_or_dashes(argv):
    command = parsed(*argv)
    assert command.learning_rate == 0.5
    assert command.model_fields_set == {"learning_rate"}


@pytest.mark.parametrize(
    ("argv", "on"),
    [
        (["--shuffle"], True),
        (["--shuffle", "true"], True),
        (["--shuffle", "True"], True),
        (["--shuffle=1"], True),
        (["--shuffle", "false"], False),
        (["--shuffle=no"], False),
        (["--no-shuffle"], False),
        (["--no_shuffle"], False),
        (["--shuffle", "--no-shuffle"], False),
    ],
)
def test_a_switch(argv, on):
    assert parsed(*argv).shuffle is on
    # One that is neither on nor off if it is not given.
    assert parsed().document_mask is None
    assert parsed(*(word.replace("shuffle", "document_mask") for word in argv)).document_mask is on


def test_a_switch_leaves_the_next_flag_alone():
    command = parsed("--resume", "--seq_len", "8")
    assert command.resume is True
    assert command.seq_len == 8


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--resume"], True),
        (["--resume", "--seq_len", "8"], True),
        (["--resume", "true"], True),
        (["--resume=true"], True),
        (["--resume", "false"], False),
        (["--resume=False"], False),
        (["--no_resume"], False),
        (["--no-resume"], False),
        (["--resume", "--no_resume"], False),
        (["--no_resume", "--resume"], True),
        (["--resume", "runs/a/a_s100"], "runs/a/a_s100"),
        (["--resume=runs/a"], "runs/a"),
    ],
)
def test_a_switch_that_may_have_a_value_of_its_own(argv, value):
    command = parsed(*argv)
    assert command.resume == value
    assert "resume" in command.model_fields_set


@pytest.mark.parametrize("flag", ["--tgt_vocab_size", "--vocab_size", "--tgt-vocab-size"])
def test_the_vocabulary_has_two_flags(flag):
    assert parsed(flag, "300").vocab_size == 300


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--embed_dm", "3"], "did you mean 'embed_dim'"),
        (["--embed_dim"], "--embed_dim needs a value"),
        (["--embed_dim", "--seq_len", "3"], "--embed_dim needs a value"),
        (["--embed_dim", "wide"], "embed_dim is 'wide'"),
        (["--batch_size", "-3"], "batch_size is '-3'"),
        (["--shuffle=maybe"], "--shuffle is 'maybe'"),
        (["--no_shuffle=true"], "--no_shuffle is 'true', but it takes no value"),
        (["--no-resume=runs/a"], "--no_resume is 'runs/a', but it takes no value"),
        (["--no_resume", "runs/a"], "'runs/a' stands alone"),
        (["--no_embed_dim"], "there is no flag --no_embed_dim"),
        (["text.txt"], "'text.txt' stands alone"),
        (["--preset", "toyy"], "did you mean 'toy'"),
        (["--positions", "foo"], "'rope', 'sinusoidal', 'learned' or 'none'"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_a_bad_flag_is_one_line(argv, message):
    with pytest.raises(ConfigError) as caught:
        parsed(*argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_layers_defaults_preset_file_flags(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("seq_len = 32\nbatch_size = 5\ntgt_vocab_size = 300\n")
    command = parsed("--preset", "tiny", "--config", str(file), "--batch_size", "7")
    assert command.embed_dim == 64  # the preset
    assert command.seq_len == 32  # the file over the preset
    assert command.vocab_size == 300
    assert command.batch_size == 7  # the flag over the file
    assert command.weight_decay == 0.1  # the default


def test_a_file_can_name_its_preset(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "tiny"\nseq_len = 32\n')
    command = parsed("--config", str(file))
    assert (command.embed_dim, command.seq_len) == (64, 32)
    assert parsed("--config", str(file), "--preset", "toy").embed_dim == 128


def test_a_saved_run_is_a_settings_file(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"train_data": "a.txt", "seq_len": 32}))
    assert parsed("--config", str(file)).seq_len == 32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seq_len = ", "not valid"),
        (b"\xff\xfe", "not valid"),
        (b"seq_lenn = 3", "did you mean 'seq_len'"),
        (b"seq_len = 'x'", "seq_len is 'x'"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, content, message):
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        parsed("--config", str(file))
    assert "\n" not in str(caught.value)


def test_texts_keep_their_commas_and_brackets():
    argv = ["--prompt", "[1, 2], {3}", "--stop", "a, b", "--stop", '"']
    command = parsed(*argv, command=GenerateCommand)
    assert command.prompt == "[1, 2], {3}"
    assert command.stop == ("a, b", '"')


def test_a_flag_takes_several_values_up_to_the_next_flag():
    argv = ["--stop", "a", "-b", "--prompt", "x", "--stop=c", "--stop", "d"]
    command = parsed(*argv, command=GenerateCommand)
    assert command.stop == ("a", "-b", "c", "d")
    assert command.prompt == "x"
    with pytest.raises(ConfigError, match="'e' stands alone"):
        parsed("--stop=c", "e", command=GenerateCommand)


def test_help_among_the_values_is_help(capsys):
    with pytest.raises(SystemExit) as end:
        parsed("--stop", "a", "-h", command=GenerateCommand)
    assert end.value.code == 0
    assert "--stop str ..." in capsys.readouterr().out


def test_help_shows_a_default_of_several_values_as_it_is_typed(capsys):
    class Read(CommandLine):
        """Read."""

        source: tuple[str, ...] = ("./a/long/path/of/a/text/that/fills/the/line.txt",)
        """Texts to read."""

    with pytest.raises(SystemExit):
        parsed("--help", command=Read)
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "--source str ... Texts to read. (default: ./a/long/path/of/a/text/that/fills/the/line.txt)"
    ) in shown


@pytest.mark.parametrize(
    "prompt", ["null", "None", "not given", "", " x ", "true", "-5", "a\nb", "--x", "é"]
)
def test_any_text_is_a_prompt(prompt):
    command = parsed(f"--prompt={prompt}", command=GenerateCommand)
    assert command.prompt == prompt
