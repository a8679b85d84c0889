import json
import os
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.eval import main
from gptlab.generation import Generator

FLAGS = ["--device", "cpu", "--precision", "fp32"]
PROBLEM = {
    "task_id": "Own/0",
    "prompt": "def add(a, b):\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
}


@pytest.fixture
def problems(trained) -> Path:
    Path("p.jsonl").write_text(json.dumps(PROBLEM) + "\n")
    return Path("p.jsonl")


def figures() -> dict:
    return json.loads(Path("eval.json").read_text())


def rows(out: str) -> dict[str, str]:
    return dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)


def test_the_text_of_the_run_by_name_and_again(trained, command):
    results = []
    for model in ("tiny", "runs/tiny/last"):
        code, out, err = command(main, model, *FLAGS, "--output", "eval.json")
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == "in numbers: eval.json"
        results.append(figures())
    assert results[0] == results[1]
    saved = results[0]["tokens"]
    assert f"{saved['loss']:.4f} ± {saved['loss_error']:.4f} nats per token" in out
    assert results[0]["model"] == "runs/tiny/last-3"
    assert rows(out)["text"].strip() == "the evaluation text of its run"


def test_lines_of_a_text(trained, command):
    argv = ["tiny", "--data", "text.txt", "--completion", "--lines", 5, *FLAGS]
    code, out, err = command(main, *argv, "--output", "eval.json")
    assert (code, err) == (0, "")
    saved = figures()
    assert saved["lines"]["lines"] == 5
    assert saved["data"] == ["text.txt"]
    assert {"next token in first 5", "next line exact", "edit similarity"} <= rows(out).keys()
    assert command(main, *argv)[1] == out.removesuffix("in numbers: eval.json\n")


def test_problems_are_solved_or_not(problems, command, monkeypatch):
    answers = ["    return a + b\n", "    return b\n"]
    monkeypatch.setattr(Generator, "generate", lambda *_: answers)
    argv = ["tiny", "--humaneval", problems, "--samples", 2, "--k", 1, 2, "--allow_execution"]
    code, out, err = command(main, *argv, "--timeout", 20, "--output", "eval.json", *FLAGS)
    assert (code, err) == (0, "")
    assert rows(out)["pass@1"].strip() == "50.00%"
    assert rows(out)["pass@2"].strip() == "100.00%"
    saved = figures()
    assert saved["programs"]["passed"] == {"Own/0": 1}
    assert saved["programs"]["pass_at"] == {"1": 0.5, "2": 1.0}
    assert saved["programs"]["pass_at_error"] == {"1": None, "2": None}
    assert saved["sampling"]["temperature"] == 0.8


def test_samples_are_written_and_not_run(problems, command, monkeypatch):
    monkeypatch.setattr("gptlab.evaluation.execution.run_program", None)
    argv = ["tiny", "--humaneval", problems, "--samples", 3, "--max_new_tokens", 6, *FLAGS]
    code, out, err = command(main, *argv, "--samples_only", "s.jsonl")
    assert (code, err) == (0, "")
    samples = [json.loads(line) for line in Path("s.jsonl").read_text().splitlines()]
    assert [sample["task_id"] for sample in samples] == ["Own/0"] * 3
    assert rows(out)["written to"].strip() == "s.jsonl"


HUMANEVAL = ["tiny", "--humaneval", "p.jsonl"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "it takes one model to evaluate, not 0; name a run or a checkpoint, as in"),
        (["tiny", "x"], "it takes one model to evaluate, not 2"),
        (["none"], "none does not exist; give a run, a checkpoint folder"),
        (["tiny", "--data", "none.txt"], "none.txt"),
        (["tiny", "--data", "empty.txt"], "empty.txt"),
        (["tiny", "--data", "short"], "the evaluation text has 1 tokens, but it takes at least 2"),
        (["tiny", "--data", "other"], "other was prepared with another tokenizer"),
        (["tiny", "--completin"], "there is no flag --completin; did you mean 'completion'?"),
        (["tiny", "--output", "no/eval.json"], "no/eval.json can't be written, for no is no"),
        (["tiny", "--output", "runs"], "runs is a folder; write --output with the name of a file"),
        (
            ["tiny", "--data", "text.txt", "--output", "text.txt"],
            "text.txt is read by the same command, and would be lost; choose another --output",
        ),
        (
            ["tiny", "--output", "runs/tiny/config.json"],
            "runs/tiny/config.json is part of a run or of a model, and would be lost; choose ano",
        ),
        (
            ["tiny", "--output", "runs/tiny/last-3/model.safetensors"],
            "runs/tiny/last-3/model.safetensors is part of a run or of a model, and would be los",
        ),
        (["tiny", "--max_new_tokens", "3"], "--max_new_tokens is 3, but nothing is to be written;"),
        (["tiny", "--field", "x"], "--field is x, but no file is named that has it; write --data"),
        (["tiny", "--device", "abacus"], "device is 'abacus', but there is no such device here"),
        (["tiny", "--lines", "0"], "lines is '0', but"),
        (["tiny", "--allow_execution"], "--allow_execution is for programs; write --humaneval"),
        (["tiny", "--k", "1"], "--k is for programs; write --humaneval FILE with it"),
        (HUMANEVAL, "--humaneval runs programs that a model wrote, limited in resources but in no"),
        ([*HUMANEVAL, "--completion"], "--humaneval brings its own problems; leave --completion"),
        ([*HUMANEVAL, "--data", "text.txt"], "--humaneval brings its own problems; leave --data"),
        (
            [*HUMANEVAL, "--allow_execution", "--samples_only", "s"],
            "--allow_execution and --samples_only exclude each other; write one of them",
        ),
        (
            [*HUMANEVAL, "--allow_execution", "--k", "1", "20"],
            "k is 20, but there are 10 samples of a problem; write --samples 20 or more",
        ),
        (["tiny", "--humaneval", "bad.jsonl", "--allow_execution"], "bad.jsonl, line 2 is no JSON"),
        (["tiny", "--humaneval", "none.jsonl", "--allow_execution"], "none.jsonl can't be read"),
    ],
)
def test_a_mistake_is_one_line(problems, command, argv, line):
    Path("empty.txt").touch()
    Path("bad.jsonl").write_text(json.dumps(PROBLEM) + "\n{\n")
    tokenizers = {"short": gptlab.load_tokenizer("tok")}
    tokenizers["other"] = gptlab.train_bpe(["text.txt"], vocab_size=262)
    for name, tokenizer in tokenizers.items():
        writer = gptlab.data.DatasetWriter(Path(name), vocab_size=tokenizer.vocab_size)
        writer.write([1])
        writer.end_document()
        writer.finish(characters=1, bytes=1, tokenizer=tokenizer.fingerprint(), source={})
    code, out, err = command(main, *argv, *([] if "--device" in argv else ["--device", "cpu"]))
    assert (code, out) == (2, "")
    assert err.startswith(f"gptlab-eval: {line}")
    assert len(err.splitlines()) == 1
    assert not Path("eval.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(trained, command):
    Path("locked").mkdir(mode=0o500)
    code, _, err = command(main, "tiny", "--output", "locked/eval.json")
    assert code == 2
    assert err.startswith("gptlab-eval: locked/eval.json can't be written, for locked is no folder")


def test_ctrl_c_is_one_line(trained, command, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gptlab.evaluation.score_tokens", interrupted)
    assert command(main, "tiny", *FLAGS) == (130, "", "gptlab-eval: interrupted\n")
