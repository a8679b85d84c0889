"""gptlab-eval and gptlab-compare with encoders: tokens that are hidden from them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import gptlab
from gptlab.cli.compare import main as compare
from gptlab.cli.eval import main
from gptlab.config import PrepareConfig
from gptlab.data import TokenDataset
from gptlab.data.masking import Masking, masked_batches
from gptlab.data.preparation import prepare
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.mask import with_mask
from gptlab.training.metrics import read_metrics

FLAGS = ["--device", "cpu", "--precision", "fp32"]
TEXT = "the cat sat on the mat and the dog ran to the cat\n" * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of two encoders with one tokenizer, and one of a GPT."""
    folder = tmp_path_factory.mktemp("encoders")
    shape = {"seq_len": 16, "embed_dim": 8, "num_layers": 1, "n_heads": 2, "vocab_size": 260}
    usual = {**shape, "batch_size": 4, "device": "cpu", "precision": "fp32", "compile": "off"}
    usual |= {"max_steps": 3, "eval_steps": 3, "quiet": True, "train_data": "text.txt"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("text.txt").write_text(TEXT)
        Path("more.txt").write_text("a dog sat on the cat\n" * 20)
        BPETokenizer([]).save("plain")
        for name, rate in (("one", 1e-5), ("two", 1e-2)):
            gptlab.train(
                gptlab.TrainConfig(
                    architecture="encoder", experiment_name=name, tokenizer="plain",
                    mask_share=0.3, learning_rate=rate, **usual,
                )
            )  # fmt: skip
        gptlab.train(gptlab.TrainConfig(experiment_name="gpt", **usual))
        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        Path("talk.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 9)
        of_own, of_other = with_mask(BPETokenizer([])), BPETokenizer([(b"a", b"t")])
        chunks = {"mode": "chunk", "short": "pad", "sources": ("more.txt",)}
        for name, tokenizer, settings in (
            ("data", BPETokenizer([]), {"sources": ("more.txt",)}),
            ("other", of_other, {"sources": ("more.txt",)}),
            ("chunks", of_own, {**chunks, "seq_len": 12}),
            ("long", of_own, {**chunks, "seq_len": 32}),
            ("talk", of_own, {"sources": ("talk.jsonl",), "chat_template": "plain", "seq_len": 16}),
        ):
            prepare(PrepareConfig(output=name, **settings), tokenizer=tokenizer)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def figures(command, *argv):
    """What the command writes as JSON of an encoder, and its table."""
    code, out, err = command(main, *argv, *FLAGS, "--output", "eval.json")
    assert (code, err) == (0, "")
    rows = (line.split("  ", 1) for line in out.splitlines() if "  " in line)
    table = {name: value.strip() for name, value in rows}
    return json.loads(Path("eval.json").read_text())["masked"], table


def one_by_one(run, datasets, share):
    """Nats, hidden tokens and found ones of each window, a token at a time."""
    model, tokenizer = gptlab.load(run)
    windows = []
    masking = Masking.of(tokenizer, share)
    for batch in masked_batches(datasets, masking, seq_len=16, batch_size=1):
        length = batch.inputs.shape[1] if batch.lengths is None else int(batch.lengths[0])
        with torch.no_grad():
            log_p = model(torch.from_numpy(batch.inputs[:, :length]))[0].double().log_softmax(-1)
        hidden = [
            (place, target)
            for place, target, weight in zip(
                batch.places[0], batch.targets[0], batch.weights[0], strict=True
            )
            if weight
        ]
        nats = -sum(float(log_p[place, target]) for place, target in hidden)
        right = sum(int(log_p[place].argmax()) == target for place, target in hidden)
        windows.append((nats, len(hidden), right))
    return np.array(windows)


def test_the_text_of_the_run_as_training_reported_it(command):
    (record,) = [record for record in read_metrics(Path("runs/two")) if record["split"] == "eval"]
    for batch_size in (1, 7):
        found, table = figures(command, "two", "--batch_size", batch_size)
        assert found["loss"] == pytest.approx(record["loss"], rel=1e-6)
        assert found["masked_accuracy"] == pytest.approx(record["masked_accuracy"], rel=1e-9)
        assert found["masked_tokens"] == record["masked_tokens"]
        assert found["mask_share"] == 0.3
        assert table["text"] == "the evaluation text of its run"
        assert table["tokens"].startswith(f"{found['masked_tokens']:,} hidden, 0.3 of those in ")
        assert "nats per hidden token" in table["loss"]


@pytest.mark.parametrize("names", [["data"], ["chunks"], ["data", "chunks"]])
def test_datasets_from_before_the_mask_and_in_windows_beside_a_token_at_a_time(command, names):
    found, table = figures(command, "two", "--data", *names)
    datasets = [TokenDataset(name) for name in names]
    nats, hidden, right = one_by_one("runs/two", datasets, 0.3).T
    assert table["text"] == " ".join(names)
    assert found["windows"] == len(nats) > 10
    assert found["masked_tokens"] == hidden.sum()
    assert found["loss"] == pytest.approx(nats.sum() / hidden.sum(), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["masked_accuracy"] == pytest.approx(right.sum() / hidden.sum())
    # Cochran's ratio of sums, by hand.
    rest = nats - nats.sum() / hidden.sum() * hidden
    error = math.sqrt(len(nats) / (len(nats) - 1) * (rest @ rest)) / hidden.sum()
    assert found["loss_error"] == pytest.approx(error, rel=1e-4)


def test_a_text_is_measured_as_the_dataset_that_is_made_of_it(command):
    of_text, _ = figures(command, "two", "--data", "more.txt")
    assert of_text == figures(command, "two", "--data", "data")[0]


def test_a_checkpoint_alone_hides_the_usual_share(command):
    model, tokenizer = gptlab.load("runs/two")
    Path("models").mkdir()
    gptlab.save("models/alone", model, tokenizer)
    assert figures(command, "models/alone", "--data", "more.txt")[0]["mask_share"] == 0.15
    code, _, err = command(main, "models/alone", *FLAGS)
    assert (code, err.count("\n")) == (2, 1)
    assert "models/alone lies in no run, " in err
    assert err.endswith("would say what it is evaluated on; name a text, as with --data\n")


def test_two_encoders_are_compared_on_what_is_hidden_from_both(command):
    code, out, err = command(compare, "one", "two", *FLAGS)
    assert (code, err) == (0, "")
    saved = json.loads(Path("compare.json").read_text())
    losses = [figures(command, name)[0]["loss"] for name in ("one", "two")]
    difference = saved["measures"]["loss"]["difference"]
    assert difference == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert abs(difference) > 1e-3
    assert saved["unit"] == "nats per hidden token"
    assert "nats per hidden token" in out


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--completion"],
            "--completion is for a model that writes, and one is an encoder; leave ",
        ),
        (["--completion", "--max_new_tokens", 3], "--max_new_tokens is for a model that writes, "),
        (["--translations", "all"], "--translations is for pairs, and one is none; leave it out"),
        (
            ["--max_new_tokens", 3],
            "--max_new_tokens is for a model that writes, and one is an enco",
        ),
        (["--data", "talk"], "the data are prepared conversations, of which a GPT learns the repl"),
        (["--data", "text.txt", "talk"], "the data are prepared conversations, of which a GPT lea"),
        (
            ["--data", "long"],
            "the windows of long have 32 tokens, but seq_len is 16; prepare the da",
        ),
        (["--data", "other"], "other was prepared with another tokenizer"),
        (["--data", "none.txt"], "none.txt"),
    ],
)
def test_a_mistake_is_one_line(command, flags, line):
    code, out, err = command(main, "one", *flags, *FLAGS)
    assert err.startswith(f"gptlab-eval: {line}"), err
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_an_encoder_is_not_compared_with_a_gpt(command):
    code, out, err = command(compare, "one", "gpt", *FLAGS)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "one is of architecture encoder, gpt is of architecture gpt; give two" in err
