import base64
import hashlib
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation import Subject, open_subject
from gptlab.evaluation.loss_page import differences, loss_page
from gptlab.evaluation.reading import beginning_of_held_out, read_text, totals

TEXT = 'The cat\n<script>alert("&")</script> sat on the $mat, and é ran.'


@pytest.fixture
def subject(trained) -> Subject:
    return open_subject(trained, device="cpu", precision="fp32")


def other_of(subject: Subject, *, seed: int, tokenizer=None) -> Subject:
    """Another model of the same shape."""
    tokenizer = tokenizer or subject.tokenizer
    config = subject.model.config.model_copy(update={"vocab_size": tokenizer.vocab_size})
    gptlab.save(f"other-{seed}", gptlab.GPT(config, seed=seed), tokenizer)
    return open_subject(f"other-{seed}", device="cpu", precision="fp32")


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, and texts by their class."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta",):
            self.open.append(tag if dict(attributes).get("class") != "tip" else "tip")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        opened = self.open.pop()
        assert tag == opened or (opened, tag) == ("tip", "span")

    def handle_data(self, data):
        if self.open and {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        elif "div" in self.open and "span" in self.open and "tip" not in self.open:
            self.text += data

    def classes(self, name: str) -> list[dict]:
        return [own for _, own in self.tags if name in own.get("class", "").split()]


# The reading.


def test_each_token_is_predicted_once_in_windows(subject):
    reading = read_text(subject, TEXT)
    ids = subject.tokenizer.encode(TEXT)
    length = subject.model.config.seq_len
    assert len(ids) > 2 * length
    assert reading.ids == ids
    assert reading.tokens[0].figures is None
    for place in range(1, len(ids)):
        start = (place - 1) // length * length
        with torch.no_grad():
            logits_V = subject.model(torch.tensor([ids[start:place]]))[0, -1]
        nats = -logits_V.log_softmax(0)[ids[place]].item()
        assert reading.tokens[place].figures.nats == pytest.approx(nats, rel=1e-4)
    windows = math.ceil((len(ids) - 1) / length)
    assert reading.note.startswith(f"read in {windows} window(s) of up to {length} tokens; ")
    whole = totals([reading, reading])
    nats = sum(token.figures.nats for token in reading.tokens[1:])
    assert whole.tokens == 2 * (len(ids) - 1)
    assert whole.loss == pytest.approx(nats / (len(ids) - 1))
    assert whole.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXT.encode()))


def test_the_beginning_of_what_a_run_was_evaluated_on(subject):
    text = Path("text.txt").read_text()
    beginning = beginning_of_held_out(subject, runs_dir="runs")
    assert beginning
    assert beginning in text


def test_what_can_not_be_read(subject):
    for text in ("", "T"):
        with pytest.raises(DataError, match=r"token\(s\), but it takes at least 2 to predict one"):
            read_text(subject, text)
    with pytest.raises(DataError, match="but 20,000 can be looked at one by one; give a shorter"):
        read_text(subject, "x y" * 20_000)
    with pytest.raises(ConfigError, match=r"other-3 lies in no run, .* --text_file FILE"):
        beginning_of_held_out(other_of(subject, seed=3), runs_dir="runs")


# The page.


def test_all_text_is_there_and_harmless(subject):
    reading = read_text(subject, TEXT)
    html = loss_page({"<i>a</i> $x": [reading]}, title="<script>1</script>")
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not {"i", "img", "link", "a"} & {tag for tag, _ in page.tags}
    assert not [own for _, own in page.tags if {"src", "href"} & own.keys()]
    # The two bytes of é are tokens of their own here.
    assert page.text == TEXT.replace("\n", "⏎\n").replace("é", "<C3><A9>")
    script = html.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [own["content"] for _, own in page.tags if "http-equiv" in own]
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_every_figure_is_in_the_table(subject):
    reading = read_text(subject, "The cat sat.")
    page = Page(loss_page({"a": [reading]}, title="a"))
    (heading, *rows) = page.tables[0]
    assert heading == ["#", "token", "loss", "rank", "entropy", "likeliest"]
    assert len(rows) == len(reading.tokens) - 1 == len(page.classes("t"))
    for place, (row, token) in enumerate(zip(rows, reading.tokens[1:], strict=True), start=2):
        figures = token.figures
        shown, share = token.alternatives[0]
        assert row[:2] == [str(place), token.shown.replace(" ", "␣")]
        assert row[2:5] == [f"{figures.nats:.3f}", str(figures.rank), f"{figures.entropy:.3f}"]
        assert row[5].startswith(f"{shown.replace(' ', '␣')} {share:.1%} · ")
    assert page.classes("apart") == []


def test_two_models_with_one_tokenizer_are_compared_token_by_token(subject):
    own = read_text(subject, TEXT)
    other = read_text(other_of(subject, seed=5), TEXT)
    page = Page(loss_page({"a": [own], "b": [other]}, title="a beside b"))
    between = differences(own, other)
    largest = max(between, key=lambda place: abs(between[place]))
    for table, sign in zip(page.tables, (1, -1), strict=True):
        assert table[0].index("difference") == 5
        for row in table[1:]:
            assert row[5] == f"{sign * between[int(row[0]) - 1]:+.3f}"
    marked = [index for index, own in enumerate(page.classes("t")) if own["class"] == "t apart"]
    assert len(marked) == 2 * math.ceil(0.1 * len(between))
    assert {largest - 1, largest - 1 + len(between)} <= set(marked)


def test_models_with_different_tokenizers_have_their_own_tokens(subject):
    tokenizer = gptlab.train_bpe(["text.txt"], vocab_size=290)
    other = read_text(other_of(subject, seed=6, tokenizer=tokenizer), TEXT)
    own = read_text(subject, TEXT)
    page = Page(loss_page({"a": [own], "b": [other]}, title="a beside b"))
    sizes = [len(table) - 1 for table in page.tables]
    assert sizes == [len(own.tokens) - 1, len(other.tokens) - 1]
    assert sizes[0] != sizes[1]
    assert "difference" not in page.tables[0][0]
    assert page.classes("apart") == []
