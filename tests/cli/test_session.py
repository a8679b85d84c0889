"""Sessions of gptlab-generate --interactive, typed and piped."""

import io
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest

import gptlab
from gptlab.cli import line_input
from gptlab.cli.generate import main
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.session import Session
from gptlab.errors import ConfigError
from gptlab.generation import Generator


class Echo:
    """Answers a prompt of n characters with ' n', in two pieces."""

    class Model:
        config = gptlab.ModelConfig(seq_len=30)

    model = Model()

    def encode_prompt(self, prompt):
        return list(prompt.encode())

    def stream(self, prompt, _config):
        if "bad" in prompt:
            raise ConfigError("it is bad; be good")
        yield " "
        if "stop" in prompt:
            raise KeyboardInterrupt
        yield str(len(prompt))


@pytest.fixture
def session():
    return Session(Echo(), SamplingFlags(length=5))


@pytest.fixture
def talk(trained, command, monkeypatch):
    """Runs a session over lines: exit code, standard output, standard error."""

    def run(*lines, argv=(), fake=True):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
        if fake:
            monkeypatch.setattr(Generator, "stream", Echo.stream)
        return command(main, "--interactive", "--length", 5, *argv)

    return run


def test_each_entry_is_added_to_the_text_and_continued(session):
    assert list(session.go_on("ab")) == [" ", "2"]
    assert session.text == "ab 2"
    assert list(session.go_on("c")) == [" ", "6"]
    assert session.text == "ab 2\nc 6"
    list(session.go_on(""))
    assert session.text == "ab 2\nc 6 8"
    list(session.go_on("x\n"))
    assert session.text == "ab 2\nc 6 8\nx\n 13"


def test_what_is_taken_back(session):
    list(session.go_on("ab"))
    list(session.go_on("c"))
    assert session.undo() == "c 6"
    assert session.text == "ab 2"
    session.reset()
    assert session.text == ""
    assert session.undo() == ""
    assert session.undo() == "ab 2"
    assert session.undo() is None
    assert session.text == ""


def test_an_error_takes_the_entry_back_and_an_interrupt_does_not(session):
    list(session.go_on("ab"))
    with pytest.raises(ConfigError, match="be good"):
        list(session.go_on("bad"))
    assert session.text == "ab 2"
    with pytest.raises(KeyboardInterrupt):
        list(session.go_on("stop"))
    assert session.text == "ab 2\nstop "
    assert session.undo() == "stop "


def test_a_session_can_stop_at_the_end_of_functions(session):
    session.set("stop_at_function", "true")
    pieces = ["    return", " 1\n", "\nx", " = 1"]
    session._generator.stream = lambda *_: iter(pieces)
    assert "".join(session.go_on("def f():\n")) == "    return 1"


def test_settings_are_spelled_as_flags_are(session):
    assert session.set("temperature", "0.5") == "temperature 0.5"
    assert session.set("length", "7") == "length 7"
    assert session.set("max_new_tokens", "7") == "max_new_tokens 7"
    assert session.set("stop", "a 'b c'") == 'stop ["a", "b c"]'
    assert session.set("regex", "a b|'c") == 'regex "a b|\'c"'
    assert session.set("logit_bias", "3:-1 4:2.5") == 'logit_bias {"3": -1.0, "4": 2.5}'
    assert session.set("json_schema", '{"type": "object"}').startswith('json_schema "{')
    assert session.set("ignore_eos", "true") == "ignore_eos true"
    assert session.flags.sampling() == gptlab.SamplingConfig(
        temperature=0.5,
        max_new_tokens=7,
        stop=("a", "b c"),
        regex="a b|'c",
        logit_bias={3: -1.0, 4: 2.5},
        json_schema='{"type": "object"}',
        ignore_eos=True,
    )
    assert {"temperature 0.5", "length 7", "top_k not given"} < set(session.settings())
    # Without a value, what it was at first.
    assert session.set("temperature", "") == "temperature 0.8"
    assert session.set("length", "") == "length 5"


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("temprature", "1", "there is no setting 'temprature'; did you mean 'temperature'?"),
        ("temperature", "-1", "temperature is '-1', but it should"),
        ("temperature", "hot", "temperature is 'hot', but it should"),
        ("debug", "true", "there is no setting 'debug'; "),
        ("top_logprobs", "1", "there is no setting 'top_logprobs'; "),
        ("stop", "'a", "'a can't be cut into words: No closing quotation; close its quotes"),
        ("logit_bias", "3", "logit_bias is '3', but it should be ID:VALUE, as in 42:-1.5"),
        ("json_schema", "{", "json_schema { is no JSON, nor a file, for "),
    ],
)
def test_a_bad_setting_is_said_and_changes_nothing(session, name, value, line):
    before = session.settings()
    with pytest.raises(ConfigError) as error:
        session.set(name, value)
    assert str(error.value).startswith(line)
    assert session.settings() == before


def test_a_text_that_outgrows_the_model_is_said_once(session):
    list(session.go_on("x" * 20))
    assert session.note_of_overflow() is None
    list(session.go_on("y" * 5))
    assert "exceed the model's seq_len of 30" in session.note_of_overflow()
    list(session.go_on("z"))
    assert session.note_of_overflow() is None


def test_a_transcript_reads_like_a_session(talk):
    lines = ["The cat", "", "two \\", "lines", "//x", "/undo", "/reset", "/undo", "/undo", "/text"]
    code, out, _ = talk(*lines)
    assert code == 0
    assert out == (
        "> The cat\n 7\n"
        "> \n 9\n"
        "> two \\\n. lines\n 22\n"
        "> //x\n 28\n"
        "> /undo\ntook back: /x 28\n"
        "> /reset\nthe text is empty; /undo brings it back\n"
        "> /undo\nthe text is what it was before\n"
        "> /undo\ntook back: two  ...\n"
        "> /text\nThe cat 7 9\n"
        "> \n"
    )


def test_pasted_lines_are_taken_as_they_are(talk):
    code, out, _ = talk(
        "/paste", "def f():", "    x = 1 \\", "/undo", "/end", "/text", "/quit", "y"
    )
    assert code == 0
    assert out.endswith("> /text\ndef f():\n    x = 1 \\\n/undo\n 27\n> /quit\n")


def test_files_settings_and_help(talk, tmp_path):
    code, out, err = talk("ab", "/save x.txt", "/set temperature 0.5", "/settings", "/help")
    assert code == 0
    assert Path("x.txt").read_text() == "ab 2"
    assert "x.txt: 4 characters" in out
    assert "\ntemperature 0.5\ntop_k not given\n" in out
    assert "/undo " in out
    assert err.splitlines()[-1] == "/help says what there is, Ctrl-D leaves"


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ("/und", "there is no command /und; did you mean 'undo'? A text that begins with"),
        ("/save", "/save needs the name of a file, as in /save text.py"),
        ("/save no/x", "no/x can't be written: No such file or directory; choose another one"),
        ("/set temperature -1", "temperature is '-1', but it should be greater than or equal to 0"),
        ("bad", "it is bad; be good"),
    ],
)
def test_a_mistake_is_one_line_and_the_session_goes_on(talk, entry, line):
    code, out, err = talk(entry, "ab")
    assert code == 0
    assert err.splitlines()[-1].startswith(line)
    assert out.endswith("> ab\n 2\n> \n")


def test_an_interrupt_stops_a_continuation_and_not_the_session(talk):
    code, out, err = talk("stop", "/reset", "ab")
    assert code == 0
    assert "> ab\n 2\n" in out
    assert "stopped" in err


def test_a_second_interrupt_at_the_prompt_leaves(talk, monkeypatch):
    answers = iter([KeyboardInterrupt, "ab", KeyboardInterrupt, KeyboardInterrupt])

    def answer(mark):
        value = next(answers)
        if value is KeyboardInterrupt:
            raise value
        return value

    monkeypatch.setattr("builtins.input", answer)
    code, out, err = talk()
    assert code == 130
    assert " 2\n" in out
    assert err.count("Ctrl-C once more leaves") == 2


def test_a_prompt_begins_the_text(talk):
    _, out, _ = talk("c", "/undo", "/text", argv=["--prompt", "ab"])
    assert out == "ab\n> c\n 4\n> /undo\ntook back: c 4\n> /text\nab\n> \n"


def test_a_real_model_answers(talk):
    argv = ["--temperature", 0, "--stop", "."]
    code, out, err = talk("The cat", "The", "The", argv=argv, fake=False)
    assert code == 0
    text = "".join(
        Generator.load("runs/tiny").stream(
            "The cat", SamplingFlags(temperature=0, stop=(".",), length=5).sampling()
        )
    )
    assert out.startswith(f"> The cat\n{text}\n> ")
    assert err.count("exceed the model's seq_len") == 1


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--num_samples", 2], "--num_samples is 2, but a session goes on with one text; "),
        (["--prompt_file", "-"], "--prompt_file - reads all of standard input, "),
    ],
)
def test_flags_that_exclude_a_session(talk, argv, line):
    code, _, err = talk(argv=argv)
    assert code == 2
    assert err.startswith(f"gptlab-generate: {line}")


def test_the_place_of_the_history(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert line_input.history_file() == Path("/state/gptlab/history")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert line_input.history_file() == Path("/home/x/.local/state/gptlab/history")


AT_A_TERMINAL = """
import sys
from pathlib import Path
from gptlab.cli import line_input
line_input._REMEMBERED = 3
with line_input.editable_lines(Path(sys.argv[1])):
    try:
        while True:
            print("got", line_input.read_entry())
    except EOFError:
        print("end")
"""


def at_a_terminal(history, *keys):
    """What a process says that reads lines from a terminal; each of `keys` answers a mark."""
    pytest.importorskip("readline")
    keyboard, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, str(history)],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(terminal)
    shown = b""
    for key in keys:
        shown += read_up_to(keyboard, b"> ")
        os.write(keyboard, key)
    shown += read_up_to(keyboard, b"end")
    assert process.wait(timeout=30) == 0
    os.close(keyboard)
    return shown.decode()


def read_up_to(keyboard, end):
    shown = b""
    while not shown.endswith(end):
        assert select.select([keyboard], [], [], 30)[0], shown
        shown += os.read(keyboard, 1)
    return shown


CTRL_D, UP, BACKSPACE = b"\x04", b"\x1b[A", b"\x7f"


def test_lines_are_edited_remembered_and_bounded(tmp_path):
    history = tmp_path / "state" / "history"
    keys = [b"a\n", b"b\n", b"c\n", b"d" + BACKSPACE + b"e\n", CTRL_D]
    assert "got e" in at_a_terminal(history, *keys)
    assert history.read_text().split() == ["b", "c", "e"]
    assert "got c" in at_a_terminal(history, UP + UP + b"\n", CTRL_D)


def test_a_history_that_cant_be_kept_does_not_matter(tmp_path):
    (tmp_path / "file").touch()
    assert "got a" in at_a_terminal(tmp_path / "file" / "history", b"a\n", CTRL_D)
