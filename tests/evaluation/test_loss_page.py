import base64
import hashlib
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab.config import ModelConfig, TransformerConfig
from gptlab.errors import ConfigError, DataError
from gptlab.evaluation.inspected import Inspected, open_any
from gptlab.evaluation.loss_page import differences, loss_page
from gptlab.evaluation.pair_reading import pair_ids, read_pair
from gptlab.evaluation.reading import totals
from gptlab.evaluation.text_reading import beginning_of_held_out, read_text
from gptlab.generation import Generator
from gptlab.model import GPT, Transformer
from gptlab.tokenizer.pair import PairTokenizer

TEXT = 'The cat\n<script>alert("&")</script> sat on the $mat, and é ran.'


SHAPE = {"embed_dim": 16, "num_layers": 1, "n_heads": 2, "seq_len": 16}


def gpt_at(folder: str, *, seed: int = 1, tokenizer=None) -> Inspected:
    """An untrained one."""
    tokenizer = tokenizer or gptlab.load_tokenizer("tok")
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    gptlab.save(folder, GPT(config, seed=seed), tokenizer)
    return open_any(folder, device="cpu", precision="fp32")


@pytest.fixture
def inspected(workplace) -> Inspected:
    return gpt_at("model")


def transformer_at(folder: str) -> Inspected:
    """An untrained one, with a tokenizer for sources and another for targets."""
    source = gptlab.train_bpe(["text.txt"], vocab_size=290)
    tokenizer = PairTokenizer(gptlab.load_tokenizer("tok"), source)
    config = TransformerConfig(vocab_size=270, src_vocab_size=290, **SHAPE)
    gptlab.save(folder, Transformer(config, seed=2), tokenizer)
    return open_any(folder, device="cpu", precision="fp32")


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


def test_each_token_is_predicted_once_in_windows(inspected):
    reading = read_text(inspected, TEXT)
    ids = inspected.tokenizer.encode(TEXT)
    length = inspected.model.config.seq_len
    assert len(ids) > 2 * length
    assert reading.ids == ids
    assert reading.tokens[0].figures is None
    for place in range(1, len(ids)):
        start = (place - 1) // length * length
        with torch.no_grad():
            logits_V = inspected.model(torch.tensor([ids[start:place]]))[0, -1]
        nats = -logits_V.log_softmax(0)[ids[place]].item()
        assert reading.tokens[place].figures.nats == pytest.approx(nats, rel=1e-4)
    windows = math.ceil((len(ids) - 1) / length)
    assert reading.note.startswith(f"read in {windows} window(s) of up to {length} tokens; ")
    whole = totals([reading, reading])
    nats = sum(token.figures.nats for token in reading.tokens[1:])
    assert whole.tokens == 2 * (len(ids) - 1)
    assert whole.loss == pytest.approx(nats / (len(ids) - 1))
    assert whole.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXT.encode()))


def test_the_beginning_of_what_a_run_was_evaluated_on(trained):
    text = Path("text.txt").read_text()
    beginning = beginning_of_held_out(open_any(trained, device="cpu"))
    assert beginning
    assert beginning in text


def test_what_can_not_be_read(inspected):
    for text in ("", "T"):
        with pytest.raises(DataError, match=r"token\(s\), but it takes at least 2 to predict one"):
            read_text(inspected, text)
    with pytest.raises(DataError, match="but 20,000 can be looked at one by one; give a shorter"):
        read_text(inspected, "x y" * 20_000)
    with pytest.raises(ConfigError, match=r"model lies in no run, .* --text_file FILE"):
        beginning_of_held_out(inspected)


def test_a_target_is_predicted_beside_its_source(workplace):
    model = transformer_at("pairs")
    tokenizer = model.tokenizer
    pair = pair_ids(model, "The cat", "A dog!")
    end, source = tokenizer.eos_id, tokenizer.source.encode("The cat")
    target = tokenizer.encode("A dog!")
    assert (pair.source, pair.target) == ([*source, tokenizer.source.eos_id], [*target, end])
    assert pair.inputs == [tokenizer.bos_id, *target]
    reading = read_pair(model, pair, source="The cat")
    for place, token in enumerate(reading.tokens):
        inputs = torch.tensor([pair.inputs[: place + 1]])
        with torch.no_grad():
            logits_V = model.model(torch.tensor([pair.source]), inputs)[0, -1]
        nats = -logits_V.log_softmax(0)[pair.target[place]].item()
        assert token.figures.nats == pytest.approx(nats, rel=1e-4)
    assert (reading.source, reading.bytes, reading.tokens[-1].shown) == ("The cat", 6, "<EOS>")


def test_without_a_target_it_is_what_the_model_says(workplace):
    model = transformer_at("pairs")
    pair = pair_ids(model, "The cat", None)
    reading = read_pair(model, pair, source="The cat")
    assert pair.is_own
    assert pair.inputs == [model.tokenizer.bos_id, *pair.target[:-1]]
    assert {token.figures.rank for token in reading.tokens} == {1}
    has_end = model.tokenizer.eos_id in pair.target
    assert has_end or len(pair.target) == model.model.config.seq_len - 1


def test_an_empty_target_has_no_bytes(workplace):
    model = transformer_at("pairs")
    reading = read_pair(model, pair_ids(model, "The cat", ""), source="The cat")
    assert totals([reading]).shown_bits == "not known"
    assert "not known" in loss_page({"a": [reading]}, title="a")


def test_what_the_model_says_is_said_in_the_arithmetic_that_it_is_read_in(workplace, monkeypatch):
    transformer_at("pairs")
    model = open_any("pairs", device="cpu", precision="bf16")
    plain, seen = Generator.generate_ids, []

    def watched(*args, **options):
        seen.append(torch.is_autocast_enabled("cpu"))
        return plain(*args, **options)

    monkeypatch.setattr(Generator, "generate_ids", watched)
    pair_ids(model, "The cat", None)
    assert seen == [True]


# The page.


def test_all_text_is_there_and_harmless(inspected):
    reading = read_text(inspected, TEXT)
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


def test_every_figure_is_in_the_table(inspected):
    reading = read_text(inspected, "The cat sat.")
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


def test_two_models_with_one_tokenizer_are_compared_token_by_token(inspected):
    own = read_text(inspected, TEXT)
    other = read_text(gpt_at("other", seed=5), TEXT)
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


def test_models_with_different_tokenizers_have_their_own_tokens(inspected):
    tokenizer = gptlab.train_bpe(["text.txt"], vocab_size=290)
    other = read_text(gpt_at("other", tokenizer=tokenizer), TEXT)
    own = read_text(inspected, TEXT)
    page = Page(loss_page({"a": [own], "b": [other]}, title="a beside b"))
    sizes = [len(table) - 1 for table in page.tables]
    assert sizes == [len(own.tokens) - 1, len(other.tokens) - 1]
    assert sizes[0] != sizes[1]
    assert "difference" not in page.tables[0][0]
    assert page.classes("apart") == []


def test_a_source_stands_above_its_target(workplace):
    model = transformer_at("pairs")
    pair = pair_ids(model, "<b>x</b>", "A dog")
    html = loss_page({"a": [read_pair(model, pair, source="<b>x</b>")]}, title="a")
    assert "&lt;b&gt;x&lt;/b&gt;" in html
    _, *rows = Page(html).tables[0]
    assert len(rows) == len(pair.target)
    assert rows[0][0] == "1"
