"""Each parameter falls under exactly one rule, and steps equal those of the slow or the known."""

import copy

import pytest
import torch
from torch import nn

from gptlab.config import ModelConfig, OptimizerConfig
from gptlab.errors import ConfigError
from gptlab.model import GPT
from gptlab.training.optimizers import make_optimizers, set_learning_rate
from gptlab.training.optimizers.groups import group_parameters

OPTIMIZERS = ["adamw", "muon", "sgd", "lion"]
SHAPES = [
    {},
    {"bias": True, "positions": "learned", "tie_embeddings": True},
    {"norm": "rmsnorm", "activation": "swiglu", "n_kv_heads": 1},
    {"qk_norm": False, "positions": "sinusoidal", "bias": True},
]


def make_model(**changes: object) -> GPT:
    shape = {"embed_dim": 8, "num_layers": 2, "n_heads": 2, "vocab_size": 20, "seq_len": 6}
    return GPT(ModelConfig(**shape, **changes), seed=0)


def optimizers_of(model: nn.Module, **settings: object) -> tuple[torch.optim.Optimizer, ...]:
    return make_optimizers(model, OptimizerConfig(**settings), products=torch.float32)


def learn(model: GPT, optimizers: tuple[torch.optim.Optimizer, ...], steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        tokens = torch.randint(20, (3, 7), generator=generator)
        logits = model(tokens[:, :-1])
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("changes", SHAPES)
def test_every_parameter_is_in_one_group_and_matrices_decay(name, changes):
    model = make_model(**changes)
    optimizers = optimizers_of(model, optimizer=name, weight_decay=0.3)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    decay_of = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    for parameter in model.parameters():
        assert decay_of[id(parameter)] == (0.3 if parameter.ndim == 2 else 0.0)


@pytest.mark.parametrize("changes", SHAPES)
def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest(changes):
    model = make_model(**changes)
    muon, adamw = optimizers_of(model, optimizer="muon")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    in_muon = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    in_adamw = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    expected = {
        f"blocks.{number}.{part}.weight"
        for number, block in enumerate(model.blocks)
        for part, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert in_muon == expected
    assert in_adamw == set(names.values()) - expected


def test_a_parameter_without_a_rule_is_refused():
    with pytest.raises(ConfigError, match="'weight', of 3 dimensions, matches 0 optimizer rules"):
        group_parameters(nn.Conv1d(2, 2, 3))


def test_a_known_name_with_other_dimensions_is_refused():
    model = make_model()
    model.norm.weight = nn.Parameter(torch.ones(2, 4))
    with pytest.raises(ConfigError, match=r"'norm\.weight', of 2 dimensions, matches 0 optimizer"):
        group_parameters(model)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_stay_as_they_are(name):
    model = make_model()
    model.blocks[0].requires_grad_(False)
    before = copy.deepcopy(model)
    learn(model, optimizers_of(model, optimizer=name), steps=2)
    for (key, now), then in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(now, then) == key.startswith("blocks.0."), key


def test_the_learning_rate_is_set_everywhere_times_the_scale_of_a_group():
    optimizers = optimizers_of(make_model(), optimizer="muon")
    optimizers[1].param_groups[1]["lr_scale"] = 0.5
    set_learning_rate(optimizers, 0.25)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    assert rates == [0.25, 0.25, 0.125]


def adamw_by_hand(value, gradients, *, rate, beta1, beta2, decay, eps=1e-8):
    first, second = torch.zeros_like(value), torch.zeros_like(value)
    for step, gradient in enumerate(gradients, start=1):
        value = value * (1 - rate * decay)
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient**2
        unbiased = first / (1 - beta1**step)
        scale = (second / (1 - beta2**step)).sqrt() + eps
        value = value - rate * unbiased / scale
    return value


def lion_by_hand(value, gradients, *, rate, beta1, beta2, decay):
    momentum = torch.zeros_like(value)
    for gradient in gradients:
        direction = torch.sign(beta1 * momentum + (1 - beta1) * gradient)
        value = value - rate * (direction + decay * value)
        momentum = beta2 * momentum + (1 - beta2) * gradient
    return value


def sgd_by_hand(value, gradients, *, rate, momentum, decay):
    velocity = torch.zeros_like(value)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        value = value - rate * (gradient + momentum * velocity + decay * value)
    return value


BY_HAND = {
    "adamw": (adamw_by_hand, {"beta1": 0.8, "beta2": 0.9}),
    "lion": (lion_by_hand, {"beta1": 0.8, "beta2": 0.9}),
    "sgd": (sgd_by_hand, {"momentum": 0.7}),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_ten_steps_equal_those_by_hand(name):
    by_hand, factors = BY_HAND[name]
    generator = torch.Generator().manual_seed(0)
    model = make_model(bias=True).double()
    settings = {"learning_rate": 0.05, "weight_decay": 0.2, **factors}
    (optimizer,) = optimizers_of(model, optimizer=name, **settings)
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    gradients = {
        key: [torch.randn(p.shape, generator=generator).double() for _ in range(10)]
        for key, p in model.named_parameters()
    }
    for step in range(10):
        for key, parameter in model.named_parameters():
            parameter.grad = gradients[key][step]
        optimizer.step()
    for key, parameter in model.named_parameters():
        decay = 0.2 if parameter.ndim == 2 else 0.0
        expected = by_hand(start[key], gradients[key], rate=0.05, decay=decay, **factors)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)),
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
    ],
)
def test_ten_steps_without_decay_equal_those_of_torch(name, known):
    model = make_model(bias=True)
    other = copy.deepcopy(model)
    settings = {"learning_rate": 0.01, "weight_decay": 0.0, "momentum": 0.9}
    learn(model, optimizers_of(model, optimizer=name, **settings), 10)
    learn(other, (known(other.parameters()),), 10)
    for now, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(now, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loaded_state_goes_on_bit_for_bit(name):
    model = make_model()
    optimizers = optimizers_of(model, optimizer=name)
    learn(model, optimizers, steps=3)
    other = copy.deepcopy(model)
    others = optimizers_of(other, optimizer=name)
    for optimizer, resumed in zip(optimizers, others, strict=True):
        for values in optimizer.state.values():
            assert all(isinstance(value, torch.Tensor) for value in values.values())
        resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    learn(model, optimizers, steps=2)
    learn(other, others, steps=2)
    for now, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(now, expected)


@pytest.mark.parametrize("name", ["muon", "sgd", "lion"])
def test_a_closure_is_called_before_the_step_with_gradients_on(name):
    model = make_model()
    optimizer = optimizers_of(model, optimizer=name)[0]
    before = copy.deepcopy(model)

    def closure() -> float:
        loss = sum((p**2).sum() for p in model.parameters())
        loss.backward()
        return loss.item()

    expected = sum((p**2).sum() for p in model.parameters()).item()
    assert optimizer.step(closure) == pytest.approx(expected)
    assert not torch.equal(
        model.blocks[0].attention.o_proj.weight, before.blocks[0].attention.o_proj.weight
    )
