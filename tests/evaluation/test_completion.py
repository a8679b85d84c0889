import difflib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gptlab
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation import Subject, held_out_text, open_subject, sample_lines, score_lines
from gptlab.evaluation.completion import Line, compare_lines
from gptlab.generation import Generator

TEXT = "first\nsecond\n\n  third\n \t\nfourth\nunfinished"


@pytest.fixture
def subject(trained) -> Subject:
    return open_subject(trained, device="cpu", precision="fp32")


def lines_of(subject: Subject, *texts: str, count: int = 99, seed: int = 0) -> list[Line]:
    Path("folder").mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        Path("folder", f"{number}.txt").write_text(text)
    datasets = held_out_text(subject, ["folder"], runs_dir="runs")
    return sample_lines(datasets, subject.tokenizer, count=count, seed=seed)


def test_lines_have_one_before_them_and_a_newline_behind_and_are_not_blank(subject):
    assert lines_of(subject, TEXT, "alone\n", "a\nb\n") == [
        Line("first\n", "second"),
        Line("first\nsecond\n\n", "  third"),
        Line("first\nsecond\n\n  third\n \t\n", "fourth"),
        Line("a\n", "b"),
    ]


def test_the_draw_is_the_seeds_and_has_no_line_twice(subject):
    text = "".join(f"line {number}\n" for number in range(40))
    drawn = [lines_of(subject, text, text[:90], count=9, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({(line.before, line.text) for line in drawn[0]}) == 9


@pytest.mark.parametrize("text", ["alone\n", "one\nunfinished", "one\n\n \n"])
def test_a_text_without_such_a_line(subject, text):
    with pytest.raises(DataError, match="the text has no line to write"):
        lines_of(subject, text)


def test_windows_that_are_held_out_leave_no_line_unseen(subject):
    (dataset,) = held_out_text(subject, ["text.txt"], runs_dir="runs")
    dataset.manifest["held_out"] = {"share": 0.1, "seed": 0, "part": "dev"}
    with pytest.raises(ConfigError, match="holds out windows, not documents, so that no line"):
        sample_lines([dataset], subject.tokenizer, count=1, seed=0)


# The comparison.


@given(st.lists(st.tuples(st.text("ab ", max_size=4), st.text("ab ", max_size=4)), min_size=1))
def test_lines_are_compared_one_by_one(pairs):
    scores = compare_lines(*map(list, zip(*pairs, strict=True)))
    assert scores.lines == len(pairs)
    assert scores.exact == pytest.approx(sum(a == b for a, b in pairs) / len(pairs))
    assert scores.stripped == pytest.approx(
        sum(a.strip() == b.strip() for a, b in pairs) / len(pairs)
    )
    ratios = [difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() for a, b in pairs]
    assert scores.similarity == pytest.approx(sum(ratios) / len(pairs))


# What is written.


class Recorder:
    """Stands in for `Generator.generate`."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.prompts, self.configs = answers, [], []

    def __call__(self, prompts, config):
        self.prompts.append(prompts)
        self.configs.append(config)
        return [self.answers.get(prompt, "?") for prompt in prompts]


def test_each_line_is_written_greedily_from_what_is_before_it(subject, monkeypatch):
    recorder = Recorder({"first\n": "second", "a\n": " b"})
    monkeypatch.setattr(Generator, "generate", recorder)
    lines = [Line("first\n", "second"), Line("a\n", "b"), Line("x\n", "y")]
    scores = score_lines(subject, lines, max_new_tokens=4, batch_size=2)
    assert recorder.prompts == [["first\n", "a\n"], ["x\n"]]
    (config, _) = recorder.configs
    assert (config.temperature, config.stop, config.max_new_tokens) == (0, ("\n",), 4)
    assert (scores.exact, scores.stripped) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


@pytest.mark.parametrize("character", ["x", "é", "日", "\n"])
def test_a_long_text_is_cut_to_what_the_context_holds(subject, monkeypatch, character):
    recorder = Recorder({})
    monkeypatch.setattr(Generator, "generate", recorder)
    before = (character * 50 + " The cat sat\n") * 20
    score_lines(subject, [Line(before, "y")], max_new_tokens=4, batch_size=2)
    ((prompt,),) = recorder.prompts
    assert before.endswith(prompt)
    assert 8 <= len(subject.tokenizer.encode(prompt)) <= 12


def test_no_room_for_a_context(subject):
    with pytest.raises(ConfigError, match="max_new_tokens is 16, which leaves no context of the"):
        score_lines(subject, [Line("a\n", "b")], max_new_tokens=16, batch_size=1)


def test_a_model_that_knows_the_text_writes_it_exactly(workplace):
    """Trained until it has learnt two lines by heart; its own argmax is the oracle."""
    torch.manual_seed(0)
    text = "ab\ncd\n"
    tokenizer = gptlab.load_tokenizer("tok")
    config = gptlab.ModelConfig(
        vocab_size=tokenizer.vocab_size, seq_len=16, embed_dim=16, num_layers=1, n_heads=2
    )
    model = gptlab.GPT(config, seed=0)
    ids = torch.tensor([tokenizer.encode(text * 2)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(100):
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits[0], ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gptlab.save("heart", model, tokenizer)
    subject = open_subject("heart", device="cpu", precision="fp32")
    lines = [Line("ab\n", "cd"), Line("ab\ncd\n", "ab"), Line("ab\n", "c"), Line("ab\n", " cd")]
    scores = score_lines(subject, lines, max_new_tokens=4, batch_size=3)
    assert (scores.exact, scores.stripped) == (0.5, 0.75)
    assert score_lines(subject, lines, max_new_tokens=4, batch_size=3) == scores
