"""One object from texts to answers, saved and loaded with all that it needs."""

import json

import pytest
import torch

import gptlab
from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError, ConfigError
from gptlab.model.head import EmptyHead
from gptlab.prediction import ModelWithHead
from gptlab.tokenizer import BPETokenizer

TEXTS = ["the cat sat", "", "a very long text that goes on and on and on", "x"]
HEADS = {
    "sequence_classification": {"labels": ("bad", "good")},
    "regression": {"num_values": 2},
    "token_classification": {"labels": ("B", "O")},
    "embedding": {"pooling": "mean", "normalise": True},
}


@pytest.fixture
def folder(tmp_path):
    """A plain language model on bytes."""
    tokenizer = BPETokenizer([])
    shape = {"embed_dim": 16, "num_layers": 1, "n_heads": 2, "seq_len": 24}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, **shape)
    return gptlab.save(tmp_path / "lm", gptlab.GPT(config, seed=0), tokenizer)


def same(one, other):
    """Whether two answers agree up to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == (pytest.approx(other, abs=1e-5) if isinstance(one, float) else other)


@pytest.mark.parametrize("name", HEADS)
def test_an_answer_depends_on_its_text_alone(folder, name):
    model = ModelWithHead.from_backbone(folder, head=name, **HEADS[name])
    together = model.predict(TEXTS)
    for text, answer in zip(TEXTS, together, strict=True):
        assert same(model.predict([text])[0], answer)
    assert same(model.predict(TEXTS, batch_size=2), together)
    assert same(model.predict(TEXTS[::-1]), together[::-1])


@pytest.mark.parametrize("name", HEADS)
def test_what_is_saved_and_loaded_gives_the_same_bits(folder, tmp_path, name):
    model = ModelWithHead.from_backbone(folder, head=name, seed=4, **HEADS[name])
    again = ModelWithHead.load(model.save(tmp_path / "out"))
    assert again.settings == model.settings
    weights = again.backbone.state_dict()
    for key, tensor in model.backbone.state_dict().items():
        assert torch.equal(weights[key], tensor)
    assert again.predict(TEXTS) == model.predict(TEXTS)
    header = json.loads((tmp_path / "out" / "config.json").read_text())
    assert header["head"]["head"] == name
    again.save(tmp_path / "again")
    first, second = (tmp_path / name / "model.safetensors" for name in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_answers_of_classification(folder):
    model = ModelWithHead.from_backbone(
        folder, head="sequence_classification", labels=("bad", "good")
    )
    answer = model.predict(["the cat"])[0]
    ids = torch.tensor([model.tokenizer.encode("the cat")])
    head = model.backbone.head
    shares = head.proj(model.backbone.hidden_states(ids)[0, -1]).softmax(0).tolist()
    assert answer["probabilities"] == pytest.approx({"bad": shares[0], "good": shares[1]})
    assert answer["label"] == ("bad" if shares[0] > shares[1] else "good")


def test_each_word_has_its_label_at_its_last_token(folder):
    model = ModelWithHead.from_backbone(folder, head="token_classification", labels=("B", "O"))
    by_words, by_text = model.predict([["the", "cat"], " the  cat "])
    assert by_words == by_text
    assert by_words["tokens"] == ["the", "cat"]
    states = model.backbone.hidden_states(torch.tensor([model.tokenizer.encode("the cat")]))[0]
    logits = model.backbone.head.proj(states[[2, 6]])
    assert by_words["probabilities"] == pytest.approx(logits.softmax(-1).max(-1)[0].tolist())


def test_words_that_do_not_fit_have_no_label(folder):
    model = ModelWithHead.from_backbone(folder, head="token_classification", labels=("B", "O"))
    answer = model.predict([["word"] * 6])[0]
    # 24 tokens: "word" has 4, and " word" 5.
    assert [label is None for label in answer["labels"]] == [False] * 5 + [True]
    assert answer["probabilities"][5] is None


def test_a_long_text_is_cut_at_what_the_backbone_reads(folder):
    model = ModelWithHead.from_backbone(folder, head="regression")
    long = "abc" * 30
    assert model.predict([long]) == model.predict([long[:24]])
    assert len(model.predict([long])[0]["values"]) == 1


def test_a_language_model_goes_on(folder):
    model = ModelWithHead.load(folder)
    assert model.settings.head == "language_model"
    answer = model.predict(["the cat"])[0]
    config = gptlab.SamplingConfig(max_new_tokens=50, temperature=0)
    expected = gptlab.Generator.load(folder).generate("the cat", config)
    assert (answer["prompt"], answer["continuation"]) == ("the cat", expected)


class Sum(EmptyHead):
    def forward(self, hidden_BTD, lengths_B):  # noqa: ARG002
        return hidden_BTD[:, 0].sum(-1, keepdim=True)

    def answer(self, output, places):  # noqa: ARG002
        return {"sum": output.item()}


def test_a_head_of_ones_own(folder, tmp_path):
    model = ModelWithHead.from_backbone(folder, head=Sum)
    model.save(tmp_path / "own")
    again = ModelWithHead.load(tmp_path / "own", head=Sum)
    assert model.predict(TEXTS) == again.predict(TEXTS)
    assert model.predict(TEXTS)[0].keys() == {"sum"}
    with pytest.raises(ConfigError, match="a class of your own; give it, as in"):
        ModelWithHead.load(tmp_path / "own")


def test_the_empty_head_tells_states(folder):
    model = ModelWithHead.from_backbone(folder, head=EmptyHead)
    states = model.predict(["abc", "abcde"])[0]["hidden_states"]
    assert (len(states), len(states[0])) == (3, 16)


def test_a_model_with_a_head_is_no_language_model(folder, tmp_path):
    model = ModelWithHead.from_backbone(folder, head="regression")
    model.save(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"no language model.*regression.*gptlab-predict"):
        gptlab.load(tmp_path / "out")
    plain, _ = gptlab.load(folder)
    tokens = torch.arange(6).view(1, 6)
    again = ModelWithHead.load(tmp_path / "out").backbone
    assert torch.equal(again(tokens), plain(tokens))


def test_what_does_not_fit(folder, tmp_path):
    model = ModelWithHead.from_backbone(folder, head="regression")
    with pytest.raises(ConfigError, match="texts is a single string; give a list"):
        model.predict("the cat")
    with pytest.raises(ConfigError, match="came as 2 words, but a regression head reads whole"):
        model.predict([["the", "cat"]])
    with pytest.raises(ConfigError, match="states of width 8, but the backbone's have 16"):
        ModelWithHead(model.backbone, model.tokenizer, EmptyHead(model.settings, width=8))
    with pytest.raises(CheckpointError, match="does not exist"):
        ModelWithHead.load(tmp_path / "nothing")


def test_a_damaged_head_is_said_in_a_line(folder, tmp_path):
    out = ModelWithHead.from_backbone(folder, head="regression").save(tmp_path / "out")
    header = json.loads((out / "config.json").read_text())
    header["head"]["head"] = "chess"
    (out / "config.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        ModelWithHead.load(out)
