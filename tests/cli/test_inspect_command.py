import json
import os
import resource
import signal
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.inspect import main
from gptlab.config import HeadSettings, ModelConfig, TransformerConfig
from gptlab.model import GPT, Encoder, Transformer
from gptlab.model.heads import add_head

FLAGS = ["--device", "cpu", "--precision", "fp32"]
TINY_SHAPE = {"embed_dim": 16, "num_layers": 1, "n_heads": 2, "seq_len": 16}
SHAPE = {"vocab_size": 270, **TINY_SHAPE}
PAGE = Path("runs/tiny/inspect/loss.html")


def test_the_text_of_the_run_and_again(trained, command):
    for _ in range(2):
        code, out, err = command(main, "tiny", *FLAGS)
        assert (code, err) == (0, "")
        assert "nats per token" in out
        assert out.splitlines()[-1].startswith("written to runs/tiny/inspect: ")
        assert out.endswith("loss.html, attention-1.png\n")
        assert PAGE.with_name("attention-1.png").read_bytes().startswith(b"\x89PNG")
        assert "runs/tiny/last-3" in PAGE.read_text()
    assert not list(Path("runs/tiny").glob(".inspect*"))


def test_two_models_side_by_side(trained, command):
    model, tokenizer = gptlab.load(trained)
    gptlab.save("other", gptlab.GPT(model.config, seed=1), tokenizer)
    argv = ["other", "tiny", "--text", "The dog sat.", "--output", "both", "--max_tokens", 3]
    code, out, err = command(main, *argv, *FLAGS)
    assert (code, err) == (0, "")
    assert out.count("nats per token") == 2
    page = Path("both/loss.html").read_text()
    assert page.index("other") < page.index("runs/tiny/last-3")
    assert "difference" in page
    assert out.endswith("model-1/attention-1.png, model-2/attention-1.png\n")
    assert len(list(Path("both").rglob("*.png"))) == 2


def test_a_checkpoint_alone_and_a_text_from_a_file(trained, command):
    model, tokenizer = gptlab.load(trained)
    Path("models").mkdir()
    gptlab.save("models/alone", model, tokenizer)
    code, out, _ = command(main, "models/alone", "--text_file", "text.txt", *FLAGS)
    assert code == 0
    assert "written to models/inspect: " in out
    code, _, err = command(main, "models/alone", *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "models/alone lies in no run" in err


def untrained(model, folder):
    """A checkpoint of `model` with the tokenizer of the workplace."""
    gptlab.save(folder, model, gptlab.load_tokenizer("tok"))


def test_sources_of_an_encoder_decoder(workplace, command):
    untrained(Transformer(TransformerConfig(**SHAPE), seed=1), "pairs")
    code, out, err = command(main, "pairs", "--source", "The cat", *FLAGS)
    assert (code, err) == (0, "")
    names = "loss.html, encoder-1.png, decoder-1.png, cross-1.png\n"
    assert out.endswith(f"written to inspect: {names}")
    assert "The cat" in Path("inspect/loss.html").read_text()
    argv = ["--source", "The cat", "A dog", "--target", "Le chat", "Un chien", "--max_tokens", 0]
    code, out, _ = command(main, "pairs", *argv, *FLAGS)
    assert code == 0
    assert {path.name for path in Path("inspect").glob("*")} == {"loss.html", "inspect.json"}
    assert Path("inspect/loss.html").read_text().count("<table>") == 2
    code, _, err = command(main, "pairs", *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "pairs lies in no run, which would have pairs; write --source" in err
    code, out, err = command(main, "pairs", "--text", "The cat", *FLAGS)
    assert (code, out, err) == (
        2,
        "",
        'gptlab-inspect: pairs is an encoder-decoder, which reads a source; write --source "..."\n',
    )
    code, _, err = command(main, "pairs", "--source", "The cat" * 9, *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "a source has 19 tokens, but the model reads 16 at most" in err
    argv = ["pairs", "--source", "The cat", "--target", "The cat" * 9]
    code, _, err = command(main, *argv, *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "a target has 19 tokens, but the model writes 16 at most; give a shorter one" in err


def test_the_pairs_of_a_run(workplace, command):
    Path("pairs.tsv").write_text("source\ttarget\n" + "the cat\tcat\na dog\tdog\n" * 9)
    Path("held.tsv").write_text(
        "source\ttarget\n" + f"{'long ' * 20}\tx\n" + "The cat\tC\nA dog\tD\nA mat\tM\nran\tR\n"
    )
    settings = gptlab.TrainConfig(
        architecture="transformer",
        train_data="pairs.tsv",
        eval_data="held.tsv",
        tokenizer="tok",
        experiment_name="run",
        max_steps=1,
        batch_size=2,
        quiet=True,
        **TINY_SHAPE,
    )
    gptlab.train(settings)
    code, out, err = command(main, "run", "--max_tokens", 0, *FLAGS)
    assert (code, err) == (0, "")
    page = Path("runs/run/inspect/loss.html").read_text()
    assert page.count("<table>") == 3
    assert "A mat" in page
    assert "long" not in page
    assert "tokens         6 predicted" in out


def test_an_encoder_has_pictures_alone(workplace, command):
    untrained(Encoder(ModelConfig(**SHAPE), seed=1), "masked")
    untrained(Transformer(TransformerConfig(**SHAPE), seed=1), "pairs")
    code, out, err = command(main, "masked", "--text", "The cat", "--output", "out", *FLAGS)
    assert (code, err) == (0, "")
    assert "no page: it is of next tokens, and an encoder fills in masked ones" in out
    assert out.endswith("written to out: attention-1.png\n")
    code, _, err = command(main, "masked", "pairs", "--text", "The cat", *FLAGS)
    assert code == 2
    assert err == (
        "gptlab-inspect: masked is of architecture encoder, pairs is of architecture transformer; "
        "they read different things, so inspect each alone\n"
    )


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "it takes one model or two to inspect, not 0; name a run or a checkpoint, as in"),
        (["tiny", "tiny", "x"], "it takes one model or two to inspect, not 3"),
        (["tiny", "tiny"], "both are runs/tiny/last-3; give two different models"),
        (["none"], "none does not exist; give a run, a checkpoint folder"),
        (["tiny", "--text", ""], "text is '', but"),
        (["tiny", "--text", "T"], "the text has 1 token(s), but it takes at least 2"),
        (["tiny", "--text", "x", "--text_file", "y"], "--text and --text_file exclude each other"),
        (["tiny", "--text_file", "none.txt"], "there is no file none.txt; name one, or give the"),
        (["tiny", "--text_file", "binary"], "binary is no UTF-8 text, for byte 1 is 0xff; name a"),
        (["tiny", "--text_file", "empty.txt"], "empty.txt is empty; write some text, or leave"),
        (["tiny", "--output", "text.txt"], "text.txt is no folder; write --output with the name"),
        (["tiny", "--output", "tok"], "tok holds "),
        (
            ["tiny", "--text", "The cat", "--output", "text.txt/x"],
            "text.txt/x can't be written: Not a directory; ",
        ),
        (["tiny", "--source", "The cat"], "runs/tiny/last-3 is of architecture gpt, which has no"),
        (["tiny", "--source", "x", "--text", "y"], "--text and --source exclude each other"),
        (
            ["tiny", "--source", "x", "--target", "y", "z"],
            "--source has 1 text(s), but --target has 2; ",
        ),
        (["tiny", "--max_tokens", "257"], "max_tokens is '257', but"),
    ],
)
def test_a_mistake_is_one_line(workplace, command, argv, line):
    Path("runs/tiny").mkdir(parents=True)
    untrained(GPT(ModelConfig(**SHAPE), seed=1), "runs/tiny/last-3")
    Path("empty.txt").touch()
    Path("binary").write_bytes(b"a\xff")
    code, out, err = command(main, *argv, *FLAGS)
    assert (code, out) == (2, "")
    assert err.startswith(f"gptlab-inspect: {line}")
    assert len(err.splitlines()) == 1
    assert not PAGE.exists()


def test_a_model_with_a_head_is_refused(trained, command):
    model, tokenizer = gptlab.load(trained)
    add_head(model, HeadSettings(head="embedding"))
    gptlab.save("head", model, tokenizer)
    code, _, err = command(main, "head", "--text", "The cat", *FLAGS)
    assert code == 2
    assert "is no language model, for it has a head of another kind (embedding)" in err


def test_what_is_not_its_own_stays(trained, command):
    argv = ["tiny", "--text", "The cat sat.", "--output", "out", *FLAGS]
    assert command(main, *argv)[0] == 0
    Path("out/notes.txt").write_text("mine")
    code, _, err = command(main, *argv)
    assert (code, err) == (
        2,
        "gptlab-inspect: out holds notes.txt, which gptlab-inspect did not write; choose another "
        "--output\n",
    )
    Path("out/notes.txt").unlink()
    manifest = json.loads(Path("out/inspect.json").read_text())
    assert {*manifest["files"], "inspect.json"} == {p.name for p in Path("out").rglob("*.*")}
    assert command(main, *argv)[0] == 0


def test_a_full_disk_leaves_nothing(trained, command):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code, _, err = command(main, "tiny", "--text", "The cat sat.", "--output", "out", *FLAGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert code == 2
    assert err == "gptlab-inspect: out can't be written: File too large; make room on its disk\n"
    assert not list(Path().glob("*out*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(trained, command):
    Path("locked").mkdir(mode=0o500)
    code, _, err = command(main, "tiny", "--text", "The cat", "--output", "locked/out")
    assert (code, err.count("\n")) == (2, 1)
    assert "locked/out can't be written: Permission denied" in err


def test_ctrl_c_is_one_line_and_leaves_nothing(trained, command, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gptlab.evaluation.inspection.loss_page", interrupted)
    assert command(main, "tiny", *FLAGS) == (130, "", "gptlab-inspect: interrupted\n")
    assert not list(Path("runs/tiny").glob("*inspect*"))
