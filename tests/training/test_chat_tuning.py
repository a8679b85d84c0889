"""Instruction tuning: conversations for a model that is trained already."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import gptlab
from gptlab import interop
from gptlab.checkpoint import save_adapter
from gptlab.config import TrainConfig
from gptlab.errors import ConfigError
from gptlab.model import grow_vocabulary
from gptlab.tokenizer.chat import TEMPLATES, find_template, template_in, with_template_tokens
from gptlab.training import pretrained, train
from gptlab.training.metrics import read_metrics
from gptlab.training.session import open_session

pytestmark = pytest.mark.usefixtures("without_plots")

CHATML = TEMPLATES["chatml"]


@pytest.fixture
def base(tiny) -> Path:
    """A tiny trained model, and conversations to go on with, as text and prepared."""
    talks = [(f"ping {n}", f"pong {n}!") for n in range(12)]
    lines = [json.dumps({"prompt": said, "response": answer}) for said, answer in talks]
    Path("talk.jsonl").write_text("\n".join(lines))
    path = train(tiny(experiment_name="base", num_layers=2, seq_len=48, max_steps=4)).path
    settings = gptlab.PrepareConfig(
        sources=("talk.jsonl",),
        output="ds",
        chat_template="chatml",
        seq_len=48,
        dev_size=0.3,
        quiet=True,
        processes=1,
    )
    gptlab.prepare(settings, tokenizer=gptlab.load(path)[1])
    return path


@pytest.fixture
def tune(base):
    """Settings of a run that begins with `base`, with changes."""

    def make(source: str = "text", **changes: object) -> TrainConfig:
        text = {"train_data": "talk.jsonl", "chat_template": "chatml", "eval_data": "talk.jsonl"}
        data = text if source == "text" else {"train_data": "ds"}
        usual = {
            "init_from": str(base),
            "experiment_name": "tuned",
            "batch_size": 2,
            "max_steps": 6,
            "learning_rate": 1e-2,
            "schedule": "constant",
            "warmup_steps": 1,
            "eval_steps": 3,
            "sample_length": 0,
            "device": "cpu",
            "precision": "fp32",
            "attention": "reference",
            "compile": "off",
            "quiet": True,
        }
        return TrainConfig(**{**usual, **data, **changes})

    return make


PARTS = {"all": {}, "last": {"train_last_layers": 1}, "lora": {"lora_rank": 2}}


@pytest.mark.parametrize("source", ["text", "prepared"])
@pytest.mark.parametrize("part", PARTS)
def test_a_trained_model_grows_by_the_tokens_of_the_template(base, tune, source, part):
    before, tokenizer = gptlab.load(base)
    session = open_session(tune(source, **PARTS[part]))
    session.loader.close()
    assert session.inputs.tokenizer == with_template_tokens(tokenizer, CHATML)
    grown = grow_vocabulary(before, 272, seed=0).state_dict()
    for name, tensor in session.model.state_dict().items():
        if name in grown:
            assert torch.equal(tensor, grown[name]), name
    assert (session.model.lora is not None) == (part == "lora")
    assert session.model.embedding.weight.requires_grad == (part == "all")
    assert session.model.lm_head.weight.requires_grad == (part != "lora")


@pytest.mark.parametrize("source", ["text", "prepared"])
@pytest.mark.parametrize("part", ["all", "lora"])
def test_it_learns_and_goes_on_without_the_first_model(base, tune, source, part):
    changes = {"dropout": 0.1, "save_every": 3, **PARTS[part]}
    straight = train(tune(source, experiment_name="straight", **changes)).path
    losses = [record["loss"] for record in read_metrics(straight) if record["split"] == "eval"]
    assert losses[-1] < losses[0]
    train(tune(source, **{**changes, "max_steps": 3}))
    shutil.rmtree(base)
    resumed = train(tune(source, resume=True, **changes)).path
    for file in (straight / "last-6").rglob("*.safetensors"):
        other = resumed / "last-6" / file.relative_to(straight / "last-6")
        assert other.read_bytes() == file.read_bytes(), file.name
    model, tokenizer = gptlab.load(resumed)
    assert model.config.vocab_size == tokenizer.vocab_size == 272
    assert template_in(resumed / "last-6") == CHATML
    assert gptlab.Generator.load(resumed).chat_template == CHATML


def test_adapters_saved_alone_know_the_template(base, tune):
    path = train(tune(lora_rank=2)).path
    alone = save_adapter("alone", path)
    assert find_template(str(alone)) == CHATML
    model, tokenizer = interop.load(base, adapter=alone)
    expected, own = gptlab.load(path)
    assert tokenizer == own
    tokens = torch.arange(262, 272).view(1, -1)
    with torch.no_grad():
        assert torch.equal(model(tokens), expected(tokens))


def test_ids_that_the_model_has_no_rows_for_are_refused(tune, monkeypatch):
    monkeypatch.setattr(pretrained, "named_template", lambda _config: None)
    with pytest.raises(ConfigError, match="the tokenizer has 272 ids, but the model 270; give the"):
        open_session(tune("prepared"))


@pytest.mark.parametrize("source", ["text", "prepared"])
def test_the_same_command_goes_on_after_the_vocabulary_grew(tune, source):
    given = {"vocab_size": 270}
    if source == "text":
        given["special_tokens"] = ["<A>", "<B>"]
    train(tune(source, max_steps=1, **given))
    assert train(tune(source, max_steps=2, resume=True, **given)).steps == 2
    size = 274 if source == "text" else 272
    assert train(tune(source, max_steps=3, resume=True, vocab_size=size)).steps == 3
    for other in (269, size + 1):
        with pytest.raises(ConfigError, match=rf"vocab_size \({size}, not {other}\)"):
            train(tune(source, max_steps=4, resume=True, vocab_size=other))


def test_what_a_run_has_of_its_model_may_be_repeated_alone(tune):
    train(tune(max_steps=1, lora_rank=2, special_tokens=["<A>"]))
    again = {"experiment_name": "tuned", "resume": True, "quiet": True}
    config = TrainConfig(**again, lora_rank=2, special_tokens=["<A>"], max_steps=2)
    assert train(config).steps == 2
    with pytest.raises(ConfigError, match=r"with other settings: lora_rank \(2, not 4\)"):
        train(TrainConfig(**again, lora_rank=4))
    with pytest.raises(ConfigError, match="lora_rank is for a model that is trained already; nam"):
        train(TrainConfig(**{**again, "experiment_name": "new"}, lora_rank=2))
    assert not Path("runs/new").exists()
