"""Parameters sharded over two processes move as those of one."""

import copy

import pytest
import torch
import torch.distributed as dist
from jobs import run_job
from torch import nn

from gptlab.config import ModelConfig, OptimizerConfig
from gptlab.model import GPT
from gptlab.training.optimizers import make_optimizers
from gptlab.training.weight_average import WeightAverage

OPTIMIZERS = ["adamw", "muon", "sgd", "lion"]
STEPS = 3


def make_model() -> GPT:
    # Neither 5 heads' keys nor 11 tokens are even, so the parts of two ranks are of two sizes.
    shape = {"embed_dim": 10, "num_layers": 2, "n_heads": 5, "n_kv_heads": 1, "vocab_size": 11}
    return GPT(ModelConfig(seq_len=4, expansion_factor=1.5, bias=True, **shape), seed=0)


def learn(model: nn.Module, name: str) -> WeightAverage:
    config = OptimizerConfig(optimizer=name, learning_rate=0.01)
    optimizers = make_optimizers(model, config, products=torch.float32)
    average = WeightAverage(model, 0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        tokens = torch.randint(11, (3, 5), generator=generator)
        logits = model(tokens[:, :-1])
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        for optimizer in optimizers:
            optimizer.step()
        average.update(step)
        model.zero_grad()
    return average


def check() -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    for name in OPTIMIZERS:
        model, alone = make_model(), make_model()
        for block in model.blocks:
            fully_shard(block)
        fully_shard(model)
        average, expected_average = learn(model, name), learn(alone, name)
        own = [p.to_local().clone() for p in model.parameters()]
        for (key, value), expected in zip(
            model.named_parameters(), alone.parameters(), strict=True
        ):
            assert isinstance(value, DTensor)
            torch.testing.assert_close(
                value.full_tensor(), expected, rtol=1e-3, atol=1e-5, msg=f"{name} {key}"
            )
        with average.applied():
            for key, value in model.named_parameters():
                expected = expected_average.tensors()[key]
                torch.testing.assert_close(value.full_tensor(), expected, rtol=1e-3, atol=1e-5)
        saved = copy.deepcopy(average.tensors())
        average.load(saved)
        assert all(
            torch.equal(p.to_local(), part) for p, part in zip(model.parameters(), own, strict=True)
        )


JOB = """
from test_sharded_optimizers import check
from gptlab.training.ranks import joined

with joined("cpu"):
    check()
"""


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_two_ranks_with_a_part_each_move_as_one(tmp_path):
    for ended in run_job(tmp_path, size=2, script=JOB):
        assert (ended.code, ended.errors) == (0, "")
