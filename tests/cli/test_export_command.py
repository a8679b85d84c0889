import json
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.checkpoint import read_header
from gptlab.cli.eval import main as evaluate
from gptlab.cli.export import main
from gptlab.cli.generate import main as generate
from gptlab.cli.train import main as train
from gptlab.config import Quantization
from gptlab.evaluation.weight_error import weight_error

FLAGS = ["--device", "cpu"]
KINDS = [
    (["--quantize", "int8"], Quantization(bits=8), torch.float32),
    (["--quantize", "int4", "--group_size", 4], Quantization(bits=4, group_size=4), torch.float32),
    (["--quantize", "int4", "--precision", "fp16"], Quantization(bits=4), torch.float16),
    (["--precision", "bf16"], None, torch.bfloat16),
]


def rows(out: str) -> dict[str, str]:
    return {name: text.strip() for name, text in (x.split("  ", 1) for x in out.splitlines())}


def weights(folder: Path | str) -> int:
    return (Path(folder) / "model.safetensors").stat().st_size


@pytest.mark.parametrize(("flags", "quantization", "dtype"), KINDS, ids=str)
def test_a_folder_that_the_other_commands_take(trained, command, flags, quantization, dtype):
    code, out, err = command(main, "tiny", "--output", "small", *flags, *FLAGS)
    assert (code, err) == (0, "")
    report = rows(out)
    assert report["model"] == "runs/tiny/last-3"
    assert report["written to"] == "small"
    share = weights("small") / weights("runs/tiny/last-3")
    assert share < 0.6
    assert report["weights"].endswith(f" kB, {share:.1%}")
    assert report["text"].startswith("the evaluation text of its run, ")
    model, _ = gptlab.load("small")
    assert (model.quantization, model.dtype) == (quantization, dtype)
    assert read_header(Path("small"))["step"] == 3

    losses = []
    for name in ("tiny", "small"):
        # What has 16 bits computes in them all the same.
        argv = [name, "--data", "text.txt", "--precision", "fp32", "--output", "eval.json"]
        code, _, err = command(evaluate, *argv, *FLAGS)
        assert (code, err) == (0, "")
        losses.append(json.loads(Path("eval.json").read_text())["tokens"]["loss"])
    data = ["--data", "text.txt"]
    code, out, err = command(main, "runs/tiny", "--output", "small", *flags, *data, *FLAGS)
    assert (code, err) == (0, "")
    before, after = losses
    assert rows(out)["text"].startswith("text.txt, ")
    figures = f"{before:.6g} -> {after:.6g}, {(after - before) / before:+.3%}"
    assert rows(out)["loss"] == figures
    assert " -> " in rows(out)["perplexity"]

    argv = ["--model_path", "small", "--prompt", "The cat", "--max_new_tokens", 4, "--seed", 1]
    code, out, err = command(generate, *argv, *FLAGS)
    assert (code, err) == (0, "model: small\n")
    assert out.startswith("The cat")


def test_errors_of_weights_by_hand(trained, command):
    code, out, _ = command(main, "tiny", "--output", "small", "--quantize", "int4", *FLAGS)
    assert code == 0
    model, small = (gptlab.load(folder)[0] for folder in ("runs/tiny", "small"))
    differences, originals, shares = [], [], {}
    for name, parameter in model.named_parameters():
        module = small.get_submodule(name.rpartition(".")[0])
        new = module.dense() if hasattr(module, "dense") else small.get_parameter(name)
        difference = (new.double() - parameter.double()).detach()
        differences += difference.flatten().tolist()
        originals += parameter.flatten().tolist()
        shares[name] = (difference.abs().max() / parameter.abs().max()).item()
    mean_square = sum(x * x for x in differences) / sum(x * x for x in originals)
    error = weight_error(small, of=model)
    assert error.root_mean_square == pytest.approx(mean_square**0.5)
    assert error.where == max(shares, key=shares.get)
    assert error.largest == pytest.approx(shares[error.where])
    report = rows(out)
    assert report["weight error"] == f"{error.root_mean_square:.3%} (root mean square)"
    expected = f"{error.largest:.3%} of the largest weight of {error.where}"
    assert report["largest error"] == expected
    same = weight_error(model, of=model)
    assert (same.root_mean_square, same.largest) == (0, 0)


def test_without_a_text_it_goes_on(trained, command):
    gptlab.save("alone", *gptlab.load("runs/tiny"))
    code, out, err = command(main, "alone", "--output", "small", "--quantize", "int8", *FLAGS)
    assert (code, err) == (0, "")
    assert rows(out)["loss"].startswith("not measured: alone lies in no run, whose config.json")
    assert rows(out)["loss"].endswith("; or name a text with --data")
    assert "perplexity" not in out
    Path("text.txt").unlink()
    code, out, err = command(main, "tiny", "--output", "other", "--quantize", "int8", *FLAGS)
    assert (code, err) == (0, "")
    assert "text.txt" in rows(out)["loss"]
    assert gptlab.load("other")[0].quantization == Quantization(bits=8)


def test_nothing_is_left_of_an_export_that_is_cut_off(trained, command, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = sorted(Path().iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("gptlab.checkpoint.models.seal", interrupted)
        code, out, err = command(main, "tiny", "--output", "small", "--precision", "bf16", *FLAGS)
    assert (code, out, err) == (130, "", "gptlab-export: interrupted\n")
    assert sorted(Path().iterdir()) == before


SMALL = ["--output", "new", "--quantize", "int8"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (SMALL, "it takes one model to export, not 0; name a run or a checkpoint, as in"),
        (["tiny", "x", *SMALL[2:], *SMALL[:2]], "it takes one model to export, not 2"),
        (["none", *SMALL], "none does not exist; give a run, a checkpoint folder"),
        (["tiny", *SMALL[2:]], "there is no folder to write; name one with --output"),
        (["tiny", *SMALL[:2]], "nothing would change; write --quantize int8, or --precision bf16"),
        (["tiny", *SMALL[:2], "--quantize", "int3"], "quantize is 'int3', but it should be 'int8'"),
        (["tiny", *SMALL, "--precision", "fp8"], "precision is 'fp8', but it should be 'bf16', "),
        (["tiny", *SMALL, "--group_size", "0"], "group_size is '0', but"),
        (["tiny", *SMALL, "--group_size", "5"], "group_size is 5, which does not divide the 16 "),
        (
            ["tiny", *SMALL[:2], "--precision", "bf16", "--group_size", "4"],
            "--group_size is for quantized weights; write --quantize int8 or int4 with it",
        ),
        (["small", *SMALL], "small has 8 bits a weight already; export the one it was made from"),
        (
            ["tiny/last", "--output", "runs/tiny/last-3", "--quantize", "int8"],
            "--output runs/tiny/last-3 is the model itself; choose another folder",
        ),
        (
            ["tiny", "--output", "runs/tiny", "--quantize", "int8"],
            "runs/tiny is no gptlab checkpoint; choose another folder",
        ),
        (
            ["tiny", "--output", "text.txt", "--quantize", "int8"],
            "text.txt is no gptlab checkpoint; choose another folder",
        ),
        (["tiny", *SMALL, "--data", "none.txt"], "none.txt"),
        (["tiny", *SMALL, "--device", "abacus"], "device is 'abacus', but there is no such device"),
        (["tiny", *SMALL, "--quantise", "int8"], "there is no flag --quantise; did you mean 'qua"),
    ],
)
def test_a_mistake_is_one_line(trained, command, argv, line):
    model, tokenizer = gptlab.load("runs/tiny")
    gptlab.save("small", gptlab.quantize(model), tokenizer)
    code, out, err = command(main, *argv, *([] if "--device" in argv else FLAGS))
    assert (code, out) == (2, "")
    assert err.startswith(f"gptlab-export: {line}")
    assert len(err.splitlines()) == 1
    assert not Path("new").exists()


def test_training_does_not_go_on_from_it(trained, command):
    for output in ("small", "runs/tiny/small"):
        argv = ["tiny", "--output", output, "--quantize", "int8"]
        assert command(main, *argv, *FLAGS)[0] == 0
        code, _, err = command(train, "--resume", output, "--max_steps", 4, *FLAGS)
        assert code == 2
        expected = f"gptlab-train: {output} is a model without the state of training, from which"
        assert err.startswith(expected)
        assert len(err.splitlines()) == 1
    # The run itself goes on as if there were no such folder in it.
    argv = ["--resume", "runs/tiny", "--max_steps", 4, "--quiet", *FLAGS]
    assert command(train, *argv)[0] == 0
    assert gptlab.load("runs/tiny")[0].quantization is None
