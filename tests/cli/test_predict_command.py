"""gptlab-predict: texts in, JSON lines out."""

import json

import pytest
import torch

import gptlab
from gptlab.cli.predict import main
from gptlab.model.head import EmptyHead

SHAPE = {"embed_dim": 16, "num_layers": 1, "n_heads": 2, "seq_len": 24, "vocab_size": 260}
HEADS = {
    "sequence_classification": {"labels": ("bad", "good")},
    "regression": {"num_values": 2},
    "token_classification": {"labels": ("B", "O")},
    "embedding": {"pooling": "mean", "normalise": True},
}
TEXTS = ["the cat", "a dog, that ran", ""]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A plain language model on bytes."""
    monkeypatch.chdir(tmp_path)
    tokenizer = gptlab.train_bpe(texts=["ab"], vocab_size=260)
    return gptlab.save("lm", gptlab.GPT(gptlab.ModelConfig(**SHAPE), seed=0), tokenizer)


@pytest.fixture
def headed(folder):
    def make(name):
        model = gptlab.ModelWithHead.from_backbone(folder, head=name, seed=2, **HEADS[name])
        model.save("headed")
        return model

    return make


def answers(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt", "flags"])
def test_answers_are_the_models(headed, command, tmp_path, name, kind):
    model = headed(name)
    texts = [text for text in TEXTS if text or kind != "flags"]
    source = ["--data", f"in.{kind}"]
    field = "tokens" if name == "token_classification" else "text"
    if kind == "jsonl":
        lines = [json.dumps({field: text, "more": 1}) for text in texts]
        (tmp_path / "in.jsonl").write_text("\n".join(lines))
    elif kind == "csv":
        quoted = "".join(f'1,"{text}"\n' for text in texts)
        (tmp_path / "in.csv").write_text(f"more,{field}\n{quoted}")
    elif kind == "txt":
        (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    else:
        source = ["--text", *texts]
    code, out, err = command(main, "--model_path", "headed", "--device", "cpu", *source)
    assert (code, err) == (0, "")
    expected = model.predict(texts)
    if name != "token_classification":
        expected = [{"text": t, **a} for t, a in zip(texts, expected, strict=True)]
    assert answers(out) == expected


def test_words_may_come_as_a_list(headed, command, tmp_path):
    model = headed("token_classification")
    (tmp_path / "in.jsonl").write_text('{"words": ["New York", "is"]}\n')
    code, out, _ = command(
        main, "--model_path", "headed", "--data", "in.jsonl", "--field", "words", "--device", "cpu"
    )
    assert code == 0
    assert answers(out) == model.predict([["New York", "is"]])


def test_a_file_is_written_whole_or_not_at_all(headed, command, tmp_path):
    headed("regression")
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    flags = ["--model_path", "headed", "--data", "in.jsonl", "--output", "out.jsonl"]
    code, out, err = command(main, *flags, "--batch_size", 1, "--device", "cpu")
    assert (code, out, err) == (0, "", "")
    written = (tmp_path / "out.jsonl").read_text()
    assert [answer["text"] for answer in answers(written)] == ["a", "b"]
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    code, _, err = command(main, *flags)
    assert code == 2
    assert "in.jsonl, line 2: field 'text' is missing in ['txt']" in err
    assert (tmp_path / "out.jsonl").read_text() == written
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.jsonl"]


def test_a_language_model_goes_on_from_a_prompt(folder, command, tmp_path):
    texts = ["the cat sat on the mat", "ab"]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    flags = ["--prompt_length", 4, "--max_new_tokens", 6, "--device", "cpu"]
    code, out, err = command(main, "--model_path", folder, "--data", "in.txt", *flags)
    assert code == 0
    first, second = answers(out)
    generator = gptlab.Generator.load(folder)
    tokenizer, model = generator.tokenizer, generator.model
    greedy = gptlab.SamplingConfig(max_new_tokens=6, temperature=0)
    assert (first["prompt"], first["truth"]) == ("the ", "cat sa")
    assert first["continuation"] == generator.generate("the ", greedy)
    ids = tokenizer.encode(texts[0])[:10]
    guesses = [int(model(torch.tensor([ids[:end]]))[0, -1].argmax()) for end in range(4, 10)]
    right = sum(guess == id for guess, id in zip(guesses, ids[4:], strict=True)) / 6
    assert first["share_right"] == pytest.approx(right)
    assert second["prompt"] == "ab"
    assert second["truth"] is second["share_right"] is None
    assert err == f"next tokens right: {right:.1%}, the mean of 1 texts\n"


def test_what_lies_beyond_the_context_is_not_measured(folder, command):
    flags = ["--text", "x" * 60, "--prompt_length", 30, "--max_new_tokens", 5, "--device", "cpu"]
    code, out, err = command(main, "--model_path", folder, *flags)
    assert (code, err) == (0, "")
    assert answers(out)[0]["share_right"] is None
    assert answers(out)[0]["truth"] == "xxxxx"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "there is nothing to read; write --data FILE or --text"),
        (["--text", "a", "--data", "b"], "--data and --text exclude each other"),
        (["--text", "a", "--max_new_tokens", "3"], "--max_new_tokens is for language models, but"),
        (["--data", "in.txt"], "in.txt can't be read: No such file"),
        (["--data", "in.csv", "--field", "x"], "in.csv, line 2: field 'x' is missing in ['text']"),
        (["--data", "empty.jsonl"], "empty.jsonl is empty"),
        (["--data", "n.jsonl"], "n.jsonl, line 1: field 'text' is no string; name the text's"),
        (["--text", "a", "--output", "no/out"], "no is no folder that you may write to"),
    ],
)
def test_a_mistake_is_one_line(headed, command, tmp_path, flags, message):
    headed("regression")
    (tmp_path / "in.csv").write_text("text\na\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "n.jsonl").write_text('{"text": 5}\n')
    code, out, err = command(main, "--model_path", "headed", *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_head_of_ones_own_is_for_python(folder, command):
    gptlab.ModelWithHead.from_backbone(folder, head=EmptyHead).save("own")
    code, _, err = command(main, "--model_path", "own", "--text", "a")
    assert code == 2
    assert "a class of your own; give it, as in gptlab.ModelWithHead.load" in err
