"""Labelled rows: read, split, encoded and drawn, against loops over single rows."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config.heads import IGNORED
from gptlab.data.labelled import LabelledDataset, LabelledSampler
from gptlab.data.labelled_rows import Fields, LabelledRow, labels_of, read_rows, split_rows
from gptlab.errors import DataError
from gptlab.tokenizer import BPETokenizer

BYTES = BPETokenizer([])
FIELDS = Fields("text", "label", "text_2")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(path, kind, **fields):
    return read_rows([str(path)], kind=kind, fields=Fields(**{**FIELDS.__dict__, **fields}))


def row(text, *label, place="f, line 1"):
    return LabelledRow(place, 0, (text,), label)


def test_rows_of_each_kind(tmp_path):
    def one(values, kind):
        found = read(write(tmp_path / "a.jsonl", [values]), kind)[0]
        return found.texts, found.label

    assert one({"text": "a", "label": "x"}, "class") == (("a",), ("x",))
    assert one({"text": "a", "label": 3}, "class") == (("a",), ("3",))
    assert one({"text": "a", "label": True}, "class") == (("a",), ("true",))
    assert one({"text": "a", "label": 3}, "numbers") == (("a",), (3.0,))
    assert one({"text": "a", "label": [1, 2.5]}, "numbers") == (("a",), (1.0, 2.5))
    words = {"text": ["a", "b"], "label": ["X", "O"]}
    assert one(words, "word_classes") == ((("a", "b"),), ("X", "O"))
    pair = {"text": "a", "text_2": "b", "label": 0.5}
    assert one(pair, "similarity") == (("a", "b"), (0.5,))


def test_a_table_says_the_same(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text('text,label\n"the cat",X O\n')
    assert read(table, "word_classes")[0].texts == (("the", "cat"),)
    assert read(table, "word_classes")[0].label == ("X", "O")
    table.write_text("text,label\na,1.5 2\n")
    assert read(table, "numbers")[0].label == (1.5, 2.0)
    table.write_text("review,stars\na,5\n")
    assert read(table, "class", text="review", label="stars")[0].label == ("5",)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("numbers", {"label": "many"}, "field 'label' is 'many', no number; give one, as in 4.5"),
        ("numbers", {"label": True}, "is True, no number"),
        ("numbers", {"label": [1, float("nan")]}, "is nan, no number"),
        ("class", {"label": 0.5}, "is 0.5, no name of a label; give a string"),
        ("class", {"label": ""}, "is '', no name of a label"),
        ("class", {"label": None}, "field 'label' is null in"),
        ("class", {}, "field 'label' is missing in ['text']"),
        ("class", {"label": "x", "text": 5}, "field 'text' is 5, no string; name the text's"),
        ("class", {"label": "x", "text": "\ud800"}, "holds half a surrogate pair"),
        ("similarity", {"label": 5, "text_2": "b"}, "is 5, but a similarity is a number from -1"),
        ("similarity", {"label": 0.5}, "field 'text_2' is missing in"),
        ("word_classes", {"text": ["a"], "label": ["X", "O"]}, "has 1 words, but 2 labels"),
        ("word_classes", {"text": [], "label": []}, "is [], but it should be a list of words"),
    ],
)
def test_a_bad_row_is_one_line_with_its_place(tmp_path, kind, values, message):
    path = write(tmp_path / "a.jsonl", [{"text": "a", **values}])
    with pytest.raises(DataError) as caught:
        read(path, kind)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}, line 1")


def test_the_split_depends_on_each_row_alone(tmp_path):
    rows = [{"text": f"t{n}", "label": "x"} for n in range(50)]
    before = split_rows(read(write(tmp_path / "a.jsonl", rows), "class"), 0.2)
    rows += [{"text": f"t{n}", "label": "x"} for n in range(50, 70)]
    after = split_rows(read(write(tmp_path / "a.jsonl", rows), "class"), 0.2)
    for part, larger in zip(before, after, strict=True):
        assert part == [one for one in larger if int(one.texts[0][1:]) < 50]
    assert sum(map(len, after)) == 70
    assert 0 < len(before[1]) < 25
    with pytest.raises(DataError, match="too few rows to hold a part of them out: 1; give more"):
        split_rows(before[0][:1], 0.2)


def test_labels_are_sorted():
    rows = [row("a", "z"), row("b", "a"), row("c", "z"), row("d", "M")]
    assert labels_of(rows) == ("M", "a", "z")


def test_an_unknown_label_names_its_line():
    rows = [row("a", "x"), row("b", "q", place="eval.csv, line 3")]
    with pytest.raises(DataError, match=r"eval.csv, line 3: label 'q' is none of those .*\(x, y\)"):
        LabelledDataset(rows, BYTES, kind="class", labels=("x", "y"), length=8)


def test_another_number_of_values_names_its_line():
    rows = [row("a", 1.0), row("b", 1.0, 2.0, place="f, line 2")]
    with pytest.raises(DataError, match=r"f, line 2 has 2 number\(s\), but num_values is 1"):
        LabelledDataset(rows, BYTES, kind="numbers", length=8)


def words_of(texts):
    return [
        LabelledRow("f", 0, (tuple(words),), tuple("XO"[len(w) % 2] for w in words))
        for words in texts
    ]


@given(
    st.lists(
        st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=5),
        min_size=1,
        max_size=6,
    ),
    st.integers(4, 12),
)
@settings(deadline=None, max_examples=40)
def test_words_are_what_a_loop_over_them_gives(texts, length):
    rows = words_of(texts)
    dataset = LabelledDataset(rows, BYTES, kind="word_classes", labels=("O", "X"), length=length)
    batch = dataset.batch(np.arange(len(rows)))
    count = 0
    for number, words in enumerate(texts):
        ids = BYTES.encode(" ".join(words))
        targets = [IGNORED] * len(ids)
        for index, word in enumerate(words):
            end = len(BYTES.encode(" ".join(words[: index + 1]))) - 1
            targets[end] = ("O", "X").index("XO"[len(word) % 2])
        ids, targets = ids[:length], targets[:length]
        count += sum(target != IGNORED for target in targets)
        assert batch.lengths[number] == len(ids)
        rest = batch.inputs.shape[1] - len(ids)
        assert batch.inputs[number].tolist() == ids + [0] * rest
        assert batch.targets[number].tolist() == targets + [IGNORED] * rest
    assert batch.inputs.shape[1] == batch.lengths.max()
    assert dataset.num_targets == count


def test_texts_are_cut_and_filled_up():
    rows = [row("abcdef", "x"), row("", "y"), row("ab", "y")]
    dataset = LabelledDataset(rows, BYTES, kind="class", labels=("x", "y"), length=4)
    batch = dataset.batch(np.array([2, 0, 1]), width=5)
    ids = {text: BYTES.encode(text) for text in ("ab", "abcd")}
    assert batch.inputs.tolist() == [
        [*ids["ab"], 0, 0, 0],
        [*ids["abcd"], 0],
        [BYTES.eos_id, 0, 0, 0, 0],
    ]
    assert batch.lengths.tolist() == [2, 4, 1]
    assert batch.targets.tolist() == [1, 0, 1]
    assert (dataset.num_cut, dataset.num_targets, dataset.num_tokens) == (1, 3, 7)


def test_pairs_lie_side_by_side():
    rows = [LabelledRow("f", 0, ("abc", "d"), (0.5,)), LabelledRow("f", 0, ("e", "fg"), (-1.0,))]
    dataset = LabelledDataset(rows, BYTES, kind="similarity", length=8)
    batch = dataset.batch(np.array([1, 0]))
    assert batch.inputs.shape == (2, 2, 3)
    assert batch.lengths.tolist() == [[1, 2], [3, 1]]
    assert batch.inputs[0, 1].tolist() == [*BYTES.encode("fg"), 0]
    assert batch.inputs[1, 0].tolist() == BYTES.encode("abc")
    assert batch.targets.tolist() == [[-1.0], [0.5]]
    assert len(dataset) == 2


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_comes_once_an_epoch_whatever_the_ranks(shuffle):
    rows = [row("abc"[: n % 3 + 1], float(n)) for n in range(10)]
    dataset = LabelledDataset(rows, BYTES, kind="numbers", length=8)
    sampler = LabelledSampler(dataset, batch_size=4, seed=3, shuffle=shuffle)
    seen = [value for step in range(5) for value in sampler.batch(step).targets[:, 0].tolist()]
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert (first == sorted(first)) is not shuffle
    assert (first == second) is not shuffle
    whole = sampler.batch(2)
    for rank in range(2):
        share = sampler.batch(2, rank=rank, world_size=2)
        assert share.targets.tolist() == whole.targets[rank::2].tolist()
        assert share.lengths.tolist() == whole.lengths[rank::2].tolist()
    assert sampler.epoch(5) == 2.0


def test_all_rows_in_order():
    rows = [row("a" * (n + 1), float(n)) for n in range(5)]
    dataset = LabelledDataset(rows, BYTES, kind="numbers", length=8)
    batches = list(dataset.batches(2))
    assert [batch.targets[:, 0].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert [batch.inputs.shape for batch in batches] == [(2, 2), (2, 4), (1, 5)]


def test_a_fingerprint_tells_texts_and_labels_apart():
    def mark(text="ab", label="x", length=8):
        rows = [row(text, label), row("c", "y")]
        made = LabelledDataset(rows, BYTES, kind="class", labels=("x", "y"), length=length)
        return made.fingerprint()

    assert mark() == mark()
    assert len({mark(), mark(text="ac"), mark(label="y"), mark(length=1)}) == 4


def test_labels_that_are_all_cut_off():
    with pytest.raises(DataError, match="no word with a label is within the first 2 tokens of f"):
        LabelledDataset(
            words_of([["long"]]), BYTES, kind="word_classes", labels=("O", "X"), length=2
        )


@pytest.mark.parametrize(("kind", "label"), [("class", "x"), ("numbers", 1.0)])
def test_texts_take_little_more_than_their_ids_while_they_are_encoded(kind, label):
    rows = [row("word " * 100 + str(n), label) for n in range(300)]
    tracemalloc.start()
    dataset = LabelledDataset(rows, BYTES, kind=kind, labels=["x"], length=600)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dataset.num_tokens > 150_000
    # Ids of 4 bytes, in a buffer that grows and then for good.
    assert peak < 11 * dataset.num_tokens
