"""gptlab-prepare from the outside: what it prints, leaves behind and refuses."""

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from gptlab.cli import prepare as command
from gptlab.data import TokenDataset
from gptlab.data.preparation import collect, pipeline
from gptlab.tokenizer import BPETokenizer

TOKENIZER = BPETokenizer([(b"t", b"h"), (b"th", b"e")])


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    TOKENIZER.save("tok")
    Path("texts").mkdir()
    for number in range(20):
        Path(f"texts/{number:02d}.txt").write_text(f"the text number {number}\n" * 3)
    Path("texts/bad.txt").write_bytes(b"\xff")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, line: str, *, stdin: bytes | None = None) -> int:
    monkeypatch.setattr(sys, "argv", ["gptlab-prepare", *line.split()])
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    with pytest.raises(SystemExit) as caught:
        command.main()
    return int(caught.value.code or 0)


def test_it_says_what_it_kept_and_left_out(here, monkeypatch, capsys):
    assert run(monkeypatch, "texts --output data --tokenizer tok --dev_size 0.2") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("data: 20 of 21 documents\n")
    assert "left out: 1 not UTF-8" in out
    assert "named in data/rejects.jsonl" in out
    assert out.endswith("now: gptlab-train --train_data data\n")
    assert TokenDataset("data").dev == Path("data/dev")


def test_a_recipe_has_a_table_for_it(here, monkeypatch, capsys):
    Path("recipe.toml").write_text(
        '[prepare]\nsources = ["texts"]\noutput = "data"\ntokenizer = "tok"\nmax_documents = 3\n'
        '[train]\ntrain_data = "data"\n'
    )
    assert run(monkeypatch, "--config recipe.toml --quiet") == 0
    assert TokenDataset("data").num_documents == 3
    assert capsys.readouterr().out == ""


def test_standard_input_is_a_source(here, monkeypatch):
    rows = b'{"text": "the first"}\n{"text": "the second"}\n'
    line = "- --input_name x.jsonl --output data --tokenizer tok --quiet"
    assert run(monkeypatch, line, stdin=rows) == 0
    dataset = TokenDataset("data")
    assert dataset.num_documents == 2
    assert (
        TOKENIZER.decode(dataset.read(0, len(dataset)).tolist()) == "the first<EOS>the second<EOS>"
    )
    assert not Path("data.unfinished").exists()


def test_a_dataset_is_verified_by_name(here, monkeypatch, capsys):
    run(monkeypatch, "texts --output data --tokenizer tok --quiet")
    assert run(monkeypatch, "data --verify") == 0
    assert "all as they were written" in capsys.readouterr().out
    shard = Path("data/tokens-00000.bin")
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert run(monkeypatch, "data --verify") == 2
    assert "data/tokens-00000.bin is missing or damaged" in capsys.readouterr().err


def test_a_dataset_with_another_tokenizer_in_it_is_refused(here, monkeypatch, capsys):
    run(monkeypatch, "texts --output data --tokenizer tok --quiet")
    BPETokenizer([]).save("data/tokenizer")
    assert run(monkeypatch, "data --verify") == 2
    assert "data/tokenizer is another tokenizer" in capsys.readouterr().err


def test_windows_are_counted(here, monkeypatch, capsys):
    line = "texts --output data --tokenizer tok --mode segment --segment_len 8 --stride 3"
    assert run(monkeypatch, f"{line} --dev_size 0.2 --split random-windows") == 0
    found = re.findall(r"(\w+) +([\d,]+) windows", capsys.readouterr().out)
    counts = {part: int(count.replace(",", "")) for part, count in found}
    windows = (len(TokenDataset("data")) - 1 - 8) // 3 + 1
    assert counts["train"] + counts["dev"] == windows
    assert 0.1 < counts["dev"] / windows < 0.3


def test_the_fault_of_a_single_file_is_told_in_full(here, monkeypatch, capsys):
    assert run(monkeypatch, "texts/bad.txt --output data --tokenizer tok") == 2
    err = capsys.readouterr().err
    assert "texts/bad.txt is not UTF-8 text (byte 0xff at offset 0); convert it" in err
    Path("rows.jsonl").write_text('{"body": "a"}\n{"body": "b"}\n')
    assert run(monkeypatch, "rows.jsonl --output data --tokenizer tok --field bdy") == 2
    assert "has no field 'bdy', only ['body']" in capsys.readouterr().err


def test_nanogpts_layout_out_and_in(here, monkeypatch, capsys):
    run(monkeypatch, "texts --output data --tokenizer tok --dev_size 0.2 --quiet")
    assert run(monkeypatch, "data --export_bin nano") == 0
    raw = np.fromfile("nano/train.bin", dtype=np.uint16)
    dataset = TokenDataset("data")
    assert raw.tolist() == dataset.read(0, len(dataset)).tolist()
    assert run(monkeypatch, "nano --import_bin --tokenizer tok --output back") == 0
    assert "tokens" in capsys.readouterr().out
    back = TokenDataset("back")
    assert back.document_ends.tolist() == dataset.document_ends.tolist()
    assert back.manifest["bytes"] == dataset.manifest["bytes"]


def test_a_leak_is_found_and_shown(here, monkeypatch, capsys):
    rows = [f"number {number} is a text of its own kind, with words" for number in range(30)]
    leaked = "this sentence stands in two places, and that is one place too many for it"
    rows[3] = rows[17] = rows[28] = leaked
    lines = (json.dumps({"text": text}) + "\n" for text in rows)
    Path("rows.jsonl").write_text("".join(lines))
    for dev_size in ("0.3", "0.5", "0.7"):
        line = f"rows.jsonl --output data --tokenizer tok --overwrite --dev_size {dev_size}"
        assert run(monkeypatch, f"{line} --check --quiet") == 0
        out = capsys.readouterr().out
        if "in two places" in out:
            break
    else:
        pytest.fail("in no split of three the sentence was on both sides")
    assert "%" in out
    assert run(monkeypatch, "rows.jsonl --output whole --tokenizer tok --quiet --check") == 2
    assert "needs a part that is held out; write --dev_size too" in capsys.readouterr().err
    run(monkeypatch, "rows.jsonl --output whole --tokenizer tok --quiet")
    assert run(monkeypatch, "whole --check") == 2
    assert "has no held-out part; prepare it with --dev_size" in capsys.readouterr().err


def test_closed_standard_input_is_one_line(here, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert run(monkeypatch, "- --output data --tokenizer tok") == 2
    assert "standard input is closed" in capsys.readouterr().err
    assert not Path("data.unfinished").exists()


def test_ctrl_c_says_how_to_go_on(here, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    line = "texts --output data --tokenizer tok"
    with monkeypatch.context() as patch:
        patch.setattr(collect.Collector, "take", interrupted)
        assert run(patch, line) == 130
        assert capsys.readouterr().err == "gptlab-prepare: interrupted\n"
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "finish", interrupted)
        assert run(patch, line) == 130
        message = "stopped; the same command goes on with what is in data.unfinished\n"
        assert capsys.readouterr().err == message
    assert run(monkeypatch, line) == 0
    assert "before the former preparation was cut off" in capsys.readouterr().out


def test_random_windows_warn(here, monkeypatch, capsys):
    line = "texts --output data --tokenizer tok --mode segment --segment_len 8 --stride 3"
    assert run(monkeypatch, f"{line} --dev_size 0.2 --split random-windows") == 0
    assert "share text with those for training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "there is no source"),
        ("texts", "there is no output"),
        ("texts --output data", "there is no tokenizer"),
        ("missing --output data --tokenizer tok", "missing does not exist"),
        ("texts --output data --tokenizer nowhere", "nowhere"),
        ("texts --output data --tokenizer tok --mode chunks", "mode is 'chunks'"),
        ("texts --output data --tokenizer tok --max_doc 3", "did you mean 'max_documents'"),
        ("texts --output texts --tokenizer tok", "is no dataset, so it is not replaced"),
        ("texts --verify", "texts is no dataset"),
        ("- - --output data --tokenizer tok", "standard input is named twice"),
        ("- --output data --tokenizer tok --input_name ..", "input_name is '..'"),
        ("texts --output data --tokenizer tok --stride 3", "stride is for mode 'segment'"),
        ("a b --check", "there are 2 sources"),
        ("texts --import_bin", "--import_bin takes one source"),
    ],
)
def test_a_mistake_is_one_line(here, monkeypatch, capsys, line, message):
    assert run(monkeypatch, line) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("data").exists()
    assert not Path("data.unfinished").exists()
