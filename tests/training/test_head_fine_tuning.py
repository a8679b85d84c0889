"""Heads on a model that is trained already: all of it, a part, or adapters."""

import pytest
import torch
from head_tasks import records, weights

from gptlab.checkpoint import find_checkpoint, load_tensors
from gptlab.config import TrainConfig
from gptlab.prediction import ModelWithHead
from gptlab.training import loop, train

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def backbone(head_run, tmp_path):
    """A language model that is trained already."""
    (tmp_path / "text.txt").write_text("it was fine. it was poor. it was great. " * 20)
    shape = {"embed_dim": 16, "num_layers": 2, "n_heads": 2, "seq_len": 24, "vocab_size": 270}
    config = TrainConfig(
        train_data="text.txt", max_steps=2, batch_size=4, experiment_name="lm", device="cpu",
        precision="fp32", quiet=True, **shape,
    )  # fmt: skip
    return train(config).path


def tuned(backbone, head_run, **changes):
    given = head_run().model_dump(
        include={
            "head",
            "train_data",
            "batch_size",
            "max_steps",
            "eval_steps",
            "device",
            "precision",
            "quiet",
        }
    )
    own = {"init_from": str(backbone), "experiment_name": "tuned"}
    return TrainConfig(**{**given, **own, **changes})


def test_a_head_learns_on_a_trained_model(backbone, head_run):
    path = train(tuned(backbone, head_run, max_steps=40, learning_rate=1e-2)).path
    before, after = weights(backbone), weights(path)
    assert after.keys() - before.keys() == {"head.proj.weight", "head.proj.bias"}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "lm_head.weight" not in moved
    assert "blocks.0.attention.qkv_proj.weight" in moved
    model = ModelWithHead.load(path)
    assert [a["label"] for a in model.predict(["it was awful", "it was fine"])] == ["bad", "good"]


def test_the_last_layers_and_the_head_learn_alone(backbone, head_run):
    path = train(tuned(backbone, head_run, train_last_layers=1)).path
    before, after = weights(backbone), weights(path)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith(("blocks.1.", "norm.")) for name in moved)


@pytest.mark.parametrize("frozen", [{"train_last_layers": 1}, {"lora_rank": 2}])
def test_a_part_that_learns_is_resumed_bit_exact(backbone, head_run, frozen, monkeypatch):
    straight = train(tuned(backbone, head_run, experiment_name="straight", **frozen)).path
    plain = loop.train_step

    def dying(session, forward):
        if session.state.step == 8:
            raise KeyboardInterrupt
        return plain(session, forward)

    monkeypatch.setattr(loop, "train_step", dying)
    config = tuned(backbone, head_run, **frozen)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(loop, "train_step", plain)
    resumed = train(config.model_copy(update={"resume": True})).path
    for file in find_checkpoint(straight).rglob("*.safetensors"):
        other = find_checkpoint(resumed) / file.relative_to(find_checkpoint(straight))
        assert other.read_bytes() == file.read_bytes(), file.name
    assert records(resumed) == records(straight)


def test_adapters_and_the_head_learn_beside_a_base_that_stays(backbone, head_run):
    path = train(tuned(backbone, head_run, lora_rank=4, max_steps=60, learning_rate=2e-2)).path
    before, base = weights(backbone), weights(path)
    assert all(torch.equal(before[name], base[name]) for name in before)
    learned = load_tensors(find_checkpoint(path) / "adapter.safetensors")
    assert {"head.proj.weight", "head.proj.bias"} <= learned.keys()
    assert learned["head.proj.weight"].abs().max() > 0.05
    model = ModelWithHead.load(path)
    assert [a["label"] for a in model.predict(["it was awful", "it was fine"])] == ["bad", "good"]
    again = ModelWithHead.load(model.save("merged"))
    assert again.predict(["it was awful"]) == model.predict(["it was awful"])
