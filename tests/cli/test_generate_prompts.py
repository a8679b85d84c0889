"""What gptlab-generate takes as a prompt, where it stops, and how it is left."""

import io
import signal
import subprocess
import sys

import pytest

import gptlab
from gptlab.cli.flags import parse
from gptlab.cli.generate import GenerateCommand, main
from gptlab.errors import ConfigError
from gptlab.generation import Generator

FUNCTION = "def f(x):\r\n    y = 'é'\n"
BODY = ["    ret", "urn y\n", "\n\ndef ", "g():\n    pass\n"]


@pytest.fixture
def says(monkeypatch):
    """Lets every model continue with BODY; the prompts that it saw."""
    prompts = []

    def stream(self, prompt, _config):
        prompts.append(prompt)
        yield from BODY

    def generate(self, several, _config):
        prompts.extend(several)
        return ["".join(BODY)] * len(several)

    monkeypatch.setattr(Generator, "stream", stream)
    monkeypatch.setattr(Generator, "generate", generate)
    return prompts


def parsed(*argv):
    return parse(GenerateCommand, list(argv), prog="gptlab-generate")


def test_a_file_is_the_prompt_to_the_last_character(trained, command, says):
    (trained.parent.parent / "x.py").write_bytes(FUNCTION.encode())
    code, out, _ = command(main, "--prompt_file", "x.py")
    assert (code, out) == (0, FUNCTION + "".join(BODY) + "\n")
    assert says == [FUNCTION]


def test_standard_input_is_the_prompt(trained, command, says, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FUNCTION.encode())))
    code, _, _ = command(main, "--prompt_file", "-")
    assert (code, says) == (0, [FUNCTION])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "there is no file x.py; name one, or give the text itself with --prompt"),
        (b"", "x.py is empty; write the beginning of a text, or leave --prompt_file out"),
        (b"ab\xff", "x.py is no UTF-8 text, for byte 2 is 0xff; name a text file, or convert it"),
        (b"ab\0", "x.py is no text, for it has NUL bytes; name a text file"),
    ],
)
def test_a_file_that_is_no_prompt(workplace, command, content, line):
    if content is not None:
        (workplace / "x.py").write_bytes(content)
    code, out, err = command(main, "--prompt_file", "x.py")
    assert (code, out, err) == (2, "", f"gptlab-generate: {line}\n")


def test_a_folder_is_no_prompt(workplace, command):
    code, _, err = command(main, "--prompt_file", "tok")
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("gptlab-generate: tok is a folder; name a file, or give the text itself")


def test_an_empty_standard_input_is_named(workplace, command, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    code, _, err = command(main, "--prompt_file", "-")
    assert code == 2
    assert err.startswith("gptlab-generate: standard input is empty; ")


def test_two_prompts_exclude_each_other():
    with pytest.raises(ConfigError, match="--prompt and --prompt_file exclude each other; "):
        parsed("--prompt", "", "--prompt_file", "x.py")


def test_it_stops_where_the_function_ends(trained, command, says):
    argv = ["--prompt", FUNCTION, "--stop_at_function"]
    code, out, _ = command(main, *argv)
    assert (code, out) == (0, FUNCTION + "    return y\n")
    code, out, _ = command(main, *argv, "--num_samples", 2)
    assert code == 0
    assert out == "".join(f"--- {n}\n{FUNCTION}    return y\n" for n in (1, 2))


def test_all_settings_of_sampling_are_flags():
    command = parsed(
        *("--max-new-tokens=5", "--typical_p", "0.5", "--presence_penalty", "-1"),
        *("--frequency_penalty", "2", "--logit_bias", "5:-2.5", "7:1", "--logit_bias=9:0"),
        *("--banned_words", "a b", "c", "--regex", "a,b", "--valid_python", "--ignore_eos"),
        *("--overflow", "truncate", "--json_schema", "{}"),
    )
    assert command.sampling() == gptlab.SamplingConfig(
        max_new_tokens=5,
        temperature=0.8,
        typical_p=0.5,
        presence_penalty=-1,
        frequency_penalty=2,
        logit_bias={5: -2.5, 7: 1, 9: 0},
        banned_words=("a b", "c"),
        regex="a,b",
        valid_python=True,
        ignore_eos=True,
        overflow="truncate",
        json_schema="{}",
    )
    names = gptlab.SamplingConfig.model_fields.keys() - GenerateCommand.model_fields.keys()
    assert names == {"top_logprobs", "max_new_tokens"}


def test_settings_of_sampling_in_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('[generate]\nlength = 7\nlogit_bias = {5 = -2.5}\nbanned_words = "a"\n')
    config = parsed("--config", str(file)).sampling()
    assert (config.max_new_tokens, config.logit_bias, config.banned_words) == (7, {5: -2.5}, ("a",))


def test_a_schema_may_stand_in_a_file(tmp_path):
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    assert parsed("--json_schema", str(file)).sampling().json_schema == '{"type": "object"}'


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--logit_bias", "5"], "logit_bias is '5', but it should be ID:VALUE, as in 42:-1.5"),
        (["--logit_bias", "x:1"], "logit_bias is 'x', but it should be a valid integer"),
        (["--logit_bias", "5:x"], "logit_bias is 'x', but it should be a valid number"),
        (["--overflow", "wrap"], "overflow is 'wrap', but it should be 'slide', 'truncate' or"),
        (["--typical_p", "2"], "typical_p is '2', but it should be less than or equal to 1"),
        (["--top_logprobs", "2"], "there is no flag --top_logprobs; "),
        (["--json_schema", "no.json"], "json_schema no.json is no JSON, nor a file, for "),
    ],
)
def test_a_bad_setting_of_sampling(argv, line):
    with pytest.raises(ConfigError) as error:
        parsed(*argv).sampling()
    assert str(error.value).startswith(line)


def test_help_shows_how_a_mapping_is_typed(capsys):
    with pytest.raises(SystemExit):
        parsed("--help")
    help_text = capsys.readouterr().out
    assert "--logit_bias key:value ..." in help_text
    assert "factory" not in help_text
    assert "--length int, --max_new_tokens int" in help_text


def test_a_run_is_found_by_its_name(trained, command, says):
    code, _, err = command(main, "--model_path", trained.name)
    assert code == 0
    assert f"model: runs/{trained.name}/" in err
    code, _, err = command(main, "--model_path", "tni")
    assert code == 2
    assert "tni does not exist; give a run, a checkpoint folder" in err
    assert err.endswith("; runs in runs: tiny\n")


def test_what_becomes_of_a_long_context_is_said(trained, command, says):
    for overflow, note in [
        ("slide", "goes on with the newer half of its context"),
        ("truncate", "forgets the older half of its context"),
    ]:
        _, _, err = command(main, "--prompt", "The", "--overflow", overflow)
        assert err.rstrip().endswith(note)
    _, _, err = command(main, "--prompt", "The", "--overflow", "error")
    assert "note" not in err


@pytest.fixture
def endless(trained):
    """A process that generates more than anyone reads, of which one byte was read."""
    code = "from gptlab.cli.generate import main; main()"
    argv = ["--prompt", "The", "--length", "1000000", "--ignore_eos", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.read(10).startswith(b"The")
    yield process
    process.kill()
    process.communicate()


def test_a_reader_may_leave(endless):
    endless.stdout.close()
    assert endless.wait(timeout=60) == 0
    assert all(line.startswith((b"model: ", b"note: ")) for line in endless.stderr)


def test_an_interrupt_keeps_what_there_is(endless):
    endless.send_signal(signal.SIGINT)
    out, err = endless.communicate(timeout=60)
    assert endless.returncode == 130
    assert out.endswith(b"\n")
    assert err.splitlines()[-1] == b"gptlab-generate: interrupted"
