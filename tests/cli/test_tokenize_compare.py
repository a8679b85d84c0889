import json
from pathlib import Path

import pytest

import gptlab
from gptlab.cli.tokenize import main
from gptlab.tokenizer.inspection import compare, measure_all


@pytest.fixture
def named(workplace):
    gptlab.train_bpe("text.txt", vocab_size=280).save("other")
    return {name: gptlab.load_tokenizer(name) for name in ("tok", "other")}


def test_a_table_of_all_tokenizers_over_the_whole_text(named, command):
    code, out, err = command(main, "--compare", "tok", "other", "text.txt")
    assert (code, err) == (0, "")
    assert out == compare(named, Path("text.txt").read_text()) + "\n"


def test_json_over_the_documents_of_a_corpus(named, command):
    texts = ["the cat", "ran <EOS> away", "é"]
    Path("rows.jsonl").write_text("".join(json.dumps({"story": text}) + "\n" for text in texts))
    argv = ["--compare", "tok", "other", "rows.jsonl", "--field", "story", "--json"]
    code, out, _ = command(main, *argv)
    expected = {name: values.as_dict() for name, values in measure_all(named, texts).items()}
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(expected))
