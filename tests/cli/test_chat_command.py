"""gptlab-generate --chat, and the commands that lead there."""

import io
import json
import sys

import pytest
from transformers import AutoTokenizer

import gptlab
from gptlab.cli.chat import ChatChoice, chat_template
from gptlab.cli.chat_session import ChatSession
from gptlab.cli.export import main as export
from gptlab.cli.generate import main as generate
from gptlab.cli.import_model import main as import_model
from gptlab.cli.prepare import main as prepare
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.tokenize import main as tokenize
from gptlab.cli.train import main as train
from gptlab.errors import ConfigError
from gptlab.generation import Generator
from gptlab.generation.chat import open_messages
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.chat import TEMPLATES, ChatEncoder, template_in

SHAPE = ["--embed_dim", 32, "--num_layers", 2, "--n_heads", 2, "--seq_len", 48]
TALKS = [("ping", "pong!"), ("who", "me and you")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run that has learned two answers, made by the command."""
    folder = tmp_path_factory.mktemp("chat")
    with (folder / "talk.jsonl").open("w") as stream:
        for prompt, response in TALKS:
            stream.write(json.dumps({"prompt": prompt, "response": response}) + "\n")
    argv = ["--train_data", "talk.jsonl", "--eval_data", "talk.jsonl", "--chat_template", "plain"]
    argv += ["--max_steps", 150, "--learning_rate", 1e-2, "--batch_size", 2, "--quiet"]
    argv += ["--experiment_name", "talk", "--tgt_vocab_size", 270, "--device", "cpu", *SHAPE]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["command", *map(str, argv)])
        patch.setattr("gptlab.training.loop.plot_run", lambda _folder: None)
        with pytest.raises(SystemExit) as ended:
            train()
    assert not ended.value.code
    return folder


@pytest.fixture
def place(run, monkeypatch):
    monkeypatch.chdir(run)
    return run


GREEDY = ["--chat", "--temperature", 0, "--length", 20]


@pytest.mark.parametrize(("prompt", "response"), TALKS)
def test_a_prompt_is_answered_with_what_was_taught(place, command, prompt, response):
    code, out, _ = command(generate, *GREEDY, "--prompt", prompt)
    assert (code, out) == (0, f"{response}\n")


def test_a_session_answers_line_by_line(place, command, monkeypatch):
    lines = ["who", "", "/text", "/undo", "/text", "ping", "/reset", "/help", "/quit"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in lines)))
    code, out, err = command(generate, *GREEDY)
    assert code == 0
    assert "> who\nme and you\n" in out
    assert "user: who\nassistant: me and you\n" in out
    assert "took back: who" in out
    assert "the conversation is empty" in out
    assert "A line is said to the assistant" in out
    assert "/help says what there is" in err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--system", "x"], "--system is for conversations; write --chat too"),
        (["--chat", "--num_samples", 2], "leave out --num_samples"),
        (["--chat", "--interactive"], "leave out --interactive"),
        (["--chat", "--num_beams", 2], "leave out --chat"),
        (
            ["--chat", "--chat_template", "llama3", "--prompt", "x"],
            "llama3 needs the special token",
        ),
        (["--chat", "--chat_template", "x", "--prompt", "x"], "there is no chat template 'x'"),
    ],
)
def test_flags_that_do_not_fit(place, command, argv, message):
    code, out, err = command(generate, *argv)
    assert (code, out) == (2, "")
    assert message in err


def test_a_model_without_a_template(trained, command):
    code, _, err = command(generate, "--chat", "--prompt", "The")
    assert code == 2
    assert "the model has no chat template; name the one it was trained with" in err
    code, _, _ = command(
        generate, "--chat", "--prompt", "T", "--chat_template", "plain", "--length", 3
    )
    assert code == 0


def test_a_dataset_is_prepared_and_trained_on(place, command):
    argv = ["talk.jsonl", "--chat_template", "plain", "--output", "ds", "--seq_len", 48]
    tokenizer = next(place.glob("runs/talk/last-*"))
    code, out, _ = command(prepare, *argv, "--tokenizer", tokenizer, "--verify", "--overwrite")
    assert code == 0
    assert "2 conversations, " in out
    assert "of them the assistant's (" in out
    assert " in 2 windows, " in out or " in 1 windows, " in out
    assert "all as they were written" in out
    argv = [
        "--train_data",
        "ds",
        "--eval_data",
        "ds",
        "--max_steps",
        2,
        "--experiment_name",
        "again",
    ]
    code, _, _ = command(train, *argv, "--quiet", "--overwrite", *SHAPE)
    assert code == 0
    assert (place / "runs" / "again" / "last-2" / "chat_template.json").is_file()


class Parrot:
    """Answers with the number of messages it was given, in two pieces."""

    class model:  # noqa: N801
        class config:  # noqa: N801
            seq_len = 60

    def chat_encoder(self):
        return ChatEncoder(TEMPLATES["plain"], BPETokenizer([]))

    def stream_chat(self, messages, _config):
        if "bad" in messages[-1].content:
            raise ConfigError("it is bad; be good")
        yield "n"
        if "stop" in messages[-1].content:
            raise KeyboardInterrupt
        yield str(len(messages))


@pytest.fixture
def session():
    return ChatSession(Parrot(), SamplingFlags(length=5), system="S")


def test_what_is_said_is_kept_in_turns(session):
    assert list(session.go_on("a")) == ["n", "2"]
    assert "".join(session.go_on("b")) == "n4"
    assert session.text == "system: S\nuser: a\nassistant: n2\nuser: b\nassistant: n4\n"
    assert session.undo() == "b\nn4"
    session.reset()
    assert session.text == "system: S\n"
    session.undo()
    assert session.text == "system: S\nuser: a\nassistant: n2\n"
    assert list(session.go_on("  ")) == []


def test_an_error_takes_what_was_said_back_and_an_interruption_keeps_what_came(session):
    with pytest.raises(ConfigError):
        list(session.go_on("bad"))
    assert session.text == "system: S\n"
    with pytest.raises(KeyboardInterrupt):
        list(session.go_on("stop"))
    assert session.text == "system: S\nuser: stop\nassistant: n\n"


def test_what_is_left_out_is_said_once(session):
    assert session.note_of_overflow() is None
    for entry in "abcd":
        list(session.go_on(entry))
    assert session.note_of_overflow() == (
        "note: the conversation outgrows the model's seq_len of 60: its oldest turns are left out"
    )
    assert session.note_of_overflow() is None


def test_one_turn_that_is_too_long_is_said(session):
    list(session.go_on("x" * 80))
    assert "the model may lose the beginning of a turn" in session.note_of_overflow()


def test_the_template_of_a_run_is_found(place):
    assert Generator.load("runs/talk", device="cpu").chat_template == TEMPLATES["plain"]


def test_the_template_stays_with_the_model(run, command, tmp_path, monkeypatch):
    monkeypatch.chdir(run)
    template = template_in(next((run / "runs" / "talk").glob("last-*")))
    assert template is not None
    flags = ("--device", "cpu")
    made = {
        "small": (export, "talk", "--precision", "bf16", *flags),
        "hf": (export, "talk", "--format", "hf"),
        "imported": (import_model, tmp_path / "hf"),
    }
    for name, (main, *argv) in made.items():
        code, _, err = command(main, *argv, "--output", tmp_path / name)
        assert (code, err) == (0, "")
        assert template_in(tmp_path / name) == template
    argv = ["--tokenizer", "runs/talk", "--special", "<new>", "--output", tmp_path / "more"]
    code, _, err = command(tokenize, *argv)
    assert (code, err) == (0, "")
    assert template_in(tmp_path / "more") == template
    messages = [{"role": "user", "content": "ping"}]
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    encoder = ChatEncoder(template, gptlab.load_tokenizer(tmp_path / "hf"))
    assert encoder.text(open_messages(messages), generation_prompt=True) == text


def test_adapters_bring_their_template_along(place):
    TEMPLATES["zephyr"].save("adapted")
    choice = ChatChoice(model_path="talk", adapter="adapted")
    assert chat_template(choice) == TEMPLATES["zephyr"]
    assert chat_template(choice.replace(adapter=None)) == TEMPLATES["plain"]
