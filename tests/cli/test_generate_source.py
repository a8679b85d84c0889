"""gptlab-generate with an encoder-decoder: sources in, targets out, and what is refused."""

import io
import sys
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.cli.generate import main
from gptlab.cli.sampling_flags import SamplingFlags
from gptlab.cli.source_session import SourceSession
from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError

SEQ_LEN = 24
SHAPE = {"embed_dim": 16, "n_heads": 2, "num_layers": 1, "seq_len": SEQ_LEN}
SOURCES = ["the mat", "cat", "a dog sat on it", "cat", "ran away", "c"]
GREEDY = SamplingConfig(temperature=0, max_new_tokens=SEQ_LEN - 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an encoder-decoder, a GPT, and a file of sources."""
    folder = tmp_path_factory.mktemp("targets")
    tokenizer = gptlab.train_bpe(
        texts=["The cat sat on the mat. A dog ran away. " * 9], vocab_size=280
    )
    model = gptlab.Transformer(gptlab.TransformerConfig(vocab_size=280, **SHAPE), seed=0)
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                deviation = 1.5 if "cross_attention.o" in name else 0.3
                parameter.normal_(0, deviation, generator=draws)
    gptlab.save(folder / "pairs", model, tokenizer)
    gpt = gptlab.GPT(gptlab.ModelConfig(vocab_size=280, **{**SHAPE, "seq_len": 64}), seed=0)
    gptlab.save(folder / "gpt", gpt, tokenizer)
    (folder / "sources.txt").write_bytes("\r\n".join(SOURCES).encode())
    return folder


@pytest.fixture
def generator(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return gptlab.Generator.load("pairs")


@pytest.fixture
def generate(command, generator):
    """Runs the command with the encoder-decoder."""
    return lambda *argv: command(main, "--model_path", "pairs", "--device", "cpu", *argv)


def lines(targets):
    """A line for each target."""
    return "".join(text.replace("\r", r"\r").replace("\n", r"\n") + "\n" for text in targets)


def test_a_target_is_greedy_and_as_long_as_it_gets(generate, generator):
    code, out, err = generate("--source", "the mat")
    assert (code, out) == (0, generator.generate("the mat", GREEDY) + "\n")
    assert err.startswith("model: pairs")
    assert "note" not in err
    assert len(generator.generate_ids([generator.encode_prompt("the mat")], GREEDY)[0]) > 9


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_several_are_lines_in_order_as_if_each_were_alone(
    generate, generator, monkeypatch, batch_size
):
    monkeypatch.setattr("gptlab.cli.targets._BATCHES_AHEAD", 2)
    expected = lines(generator.generate(source, GREEDY) for source in SOURCES)
    assert len({*expected.split("\n")}) >= 4
    argv = ["--batch_size", batch_size]
    assert generate("--source", *SOURCES, *argv)[:2] == (0, expected)
    assert generate("--source_file", "sources.txt", *argv)[:2] == (0, expected)
    typed = "\n".join(SOURCES).encode() + b"\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed)))
    assert generate("--source_file", "-", *argv)[:2] == (0, expected)


def test_those_of_like_length_are_made_together(generate, monkeypatch):
    read = []
    encode = gptlab.Transformer.encode

    def watched(self, source, *, lengths=None):
        read.append(tuple(source.shape))
        return encode(self, source, lengths=lengths)

    monkeypatch.setattr(gptlab.Transformer, "encode", watched)
    sources = ["cat", "a dog sat on it", "c", "the mat ran away"] * 2
    assert generate("--source", *sources, "--batch_size", 2)[0] == 0
    assert [rows for rows, _ in read] == [2, 2]
    assert read[0][1] < read[1][1]


@pytest.mark.parametrize(
    ("argv", "changes"),
    [
        (["--seed", 3], {}),
        (["--seed", 3, "--temperature", 1.5, "--top_k", 9], {"temperature": 1.5, "top_k": 9}),
        (["--seed", 3, "--temperature", 0, "--length", 4], {"max_new_tokens": 4}),
    ],
)
def test_a_flag_of_drawing_draws_and_a_seed_alone_does_not(generate, generator, argv, changes):
    config = GREEDY.replace(seed=3, **changes)
    expected = lines(generator.generate(source, config) for source in ("the mat", "cat"))
    assert generate("--source", "the mat", "cat", *argv)[:2] == (0, expected)


def test_samples_of_a_source_are_lines_that_differ(generate, generator):
    config = GREEDY.replace(seed=3, temperature=0.8)
    expected = [*generator.generate(["cat"] * 3, config), *generator.generate(["c"] * 3, config)]
    code, out, _ = generate("--source", "cat", "c", "--num_samples", 3, "--seed", 3)
    assert (code, out) == (0, lines(expected))
    assert len({*expected}) >= 5
    _, out, _ = generate("--source", "cat", "--num_samples", 3)
    assert len({*out.split("\n")[:-1]}) == out.count("\n") == 3


def test_beams(generate, generator):
    for penalty in (1.0, -4.0):
        best = [
            generator.beam_search(source, beams=3, max_new_tokens=9, length_penalty=penalty)[0]
            for source in ("the mat", "cat")
        ]
        argv = ["--num_beams", 3, "--length_penalty", penalty, "--length", 9]
        code, out, _ = generate("--source", "the mat", "cat", *argv)
        assert (code, out) == (0, lines(found.text for found in best))
    assert generate("--source", "cat", *argv)[1] == best[1].text + "\n"
    assert generate("--source", "cat", "--num_beams", 3)[0] == 0


def test_beams_of_a_gpt_have_a_length_penalty(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    gpt = gptlab.Generator.load("gpt")
    best = gpt.beam_search("The", beams=3, max_new_tokens=9, length_penalty=-2.0)[0]
    argv = ["--model_path", "gpt", "--prompt", "The", "--length", 9, "--num_beams", 3]
    code, out, _ = command(main, *argv, "--length_penalty", -2)
    assert (code, out) == (0, f"The{best.text}\n")


def test_a_length_beyond_the_context_is_said(generate):
    code, out, err = generate("--source", "cat", "--length", 100)
    assert (code, out) == generate("--source", "cat")[:2]
    assert err.endswith("note: a target has 23 tokens at most, as the model's seq_len is 24\n")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "the model turns sources into targets; write --source"),
        (
            ["--prompt", "x"],
            "--prompt is for GPTs, but the model turns sources into targets; write",
        ),
        (
            ["--prompt_file", "sources.txt"],
            "--prompt_file is for GPTs, but the model turns sources",
        ),
        (["--chat"], "--chat is for GPTs, but the model turns sources into targets; leave it out"),
        (
            ["--source", "x", "--chat"],
            "--source is for encoder-decoders, and --chat for GPTs; leav",
        ),
        (["--source", "x", "--prompt", "y"], "--source is for encoder-decoders, and --prompt for "),
        (
            ["--source_file", "x", "--draft_model", "y"],
            "--source_file is for encoder-decoders, and",
        ),
        (
            ["--source", "x", "--prompt_lookup", 2],
            "--source is for encoder-decoders, and --prompt_",
        ),
        (
            ["--source", "x", "--overflow", "error"],
            "--source is for encoder-decoders, and --overfl",
        ),
        (["--interactive", "--stop_at_function"], "--stop_at_function is for GPTs, but the model "),
        (["--interactive", "--source", "x"], "a session reads its sources line by line; leave out"),
        (["--source", "x", "--source_file", "y"], "--source and --source_file exclude each other"),
        (["--source", ""], "--source: the source is blank; write a text, or leave it out"),
        (["--source", "a", " "], "--source, text 2: the source is blank; write a text"),
        (["--source_file", "blank.txt"], "blank.txt, line 2: the source is blank; write a text"),
        (["--source_file", "."], ". is a folder; name a file, or give the text itself with --sour"),
        (["--source_file", "none.txt"], "there is no file none.txt; name one, or give the text it"),
        (["--source_file", "empty.txt"], "empty.txt is empty; write a source on each line, or lea"),
        (["--source", "a", "x" * 30], "--source, text 2: a source has 31 tokens, but the model re"),
        (
            ["--source", "x" * 30],
            "--source: a source has 31 tokens, but the model reads 24 at most",
        ),
        (["--source", "x", "--batch_size", 0], "batch_size is '0', but it should be greater than"),
        (["--source", "x", "--length_penalty", 2], "--length_penalty is 2.0, but it ranks beams; "),
        (
            ["--source", "x", "--num_beams", 2, "--length_penalty", 11],
            "length_penalty is '11', but",
        ),
        (
            ["--source", "x", "--num_beams", 2, "--seed", 1],
            "--num_beams is 2, but beam search find",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(generate, argv, line):
    Path("blank.txt").write_text("a\n\nb\n")
    Path("empty.txt").touch()
    code, out, err = generate(*argv)
    assert (code, out) == (2, "")
    *notes, last = err.splitlines()
    assert last.startswith(f"gptlab-generate: {line}")
    assert all(note.startswith("model: ") for note in notes)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--source", "x"],
            "--source is for encoder-decoders, but the model is a GPT; write --pro",
        ),
        (["--source_file", "sources.txt"], "--source_file is for encoder-decoders, but the model "),
        (["--batch_size", 2], "--batch_size is for encoder-decoders, but the model is a GPT; leav"),
    ],
)
def test_a_gpt_has_no_sources(command, folder, monkeypatch, argv, line):
    monkeypatch.chdir(folder)
    code, out, err = command(main, "--model_path", "gpt", *argv)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"gptlab-generate: {line}")


def test_a_session_answers_each_line_as_a_source(generate, generator, monkeypatch):
    typed = ["cat", "", "x" * 30, "c", "/undo", "/set overflow slide", "/text", "/help", "/quit"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in typed)))
    code, out, err = generate("--interactive")
    assert code == 0
    target = generator.generate("cat", GREEDY)
    assert f"> cat\n{target}\n> \n" in out
    assert "took back: c\n" in out
    assert f"> /text\ncat\t{lines([target])}> /help" in out
    assert "A line is a source, and its target follows." in out
    assert "a source has 31 tokens, but the model reads 24 at most" in err
    assert "there is no setting 'overflow'" in err


def test_what_a_session_takes_back(generator):
    session = SourceSession(generator, SamplingFlags(temperature=0, length=4))
    first = "".join(session.go_on("cat"))
    assert session.pairs == (("cat", first),)
    assert first == generator.generate("cat", GREEDY.replace(max_new_tokens=4))
    with pytest.raises(ConfigError, match="the model reads 24 at most"):
        list(session.go_on("x" * 30))
    session.reset()
    assert session.text == ""
    assert session.undo() == ""
    assert session.undo() == "cat"
    assert session.undo() is None
    assert session.set("temperature", "0.5") == "temperature 0.5"
    assert not [line for line in session.settings() if line.startswith("overflow")]
