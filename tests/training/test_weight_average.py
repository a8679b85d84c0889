import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError
from gptlab.model import GPT
from gptlab.training.weight_average import WeightAverage


def make_model(seed: int = 0, **changes: object) -> GPT:
    shape = {"embed_dim": 8, "num_layers": 1, "n_heads": 2, "vocab_size": 11, "seq_len": 4}
    return GPT(ModelConfig(**shape, **changes), seed=seed)


@torch.no_grad()
def move(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter))


def copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@settings(max_examples=50, deadline=None)
@given(decay=st.floats(0.01, 0.9999), steps=st.integers(0, 40), first=st.integers(0, 50))
def test_the_average_is_the_one_computed_by_hand(decay, steps, first):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer, decay)
    expected = layer.weight.detach().double()
    for step in range(first, first + steps):
        move(layer)
        average.update(step)
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * layer.weight.detach().double()
    torch.testing.assert_close(average.tensors()["weight"].double(), expected, rtol=1e-5, atol=1e-6)


def test_weights_that_stand_still_are_their_own_average():
    model = make_model()
    average = WeightAverage(model, 0.99)
    for step in range(5):
        average.update(step)
    for name, value in model.named_parameters():
        assert torch.equal(average.tensors()[name], value)


def test_within_the_model_is_the_average_and_afterwards_itself_again():
    torch.manual_seed(0)
    model = make_model()
    average = WeightAverage(model, 0.9)
    for step in range(20):
        move(model)
        average.update(step)
    own, averaged = copies(model), {n: t.clone() for n, t in average.tensors().items()}
    tokens = torch.arange(4).unsqueeze(0)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    with average.applied():
        inside, inside_logits = copies(model), model(tokens)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    for name, value in model.state_dict().items():
        assert torch.equal(inside[name], averaged[name])
        assert torch.equal(value, own[name])
        assert torch.equal(average.tensors()[name], averaged[name])
    other = make_model()
    other.load_state_dict(average.tensors())
    assert torch.equal(other(tokens), inside_logits)


def test_an_error_within_leaves_the_model_its_own_weights():
    model = make_model()
    average = WeightAverage(model, 0.9)
    move(model)
    own = copies(model)
    with pytest.raises(ZeroDivisionError), average.applied():
        _ = 1 / 0
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_an_average_that_is_saved_and_loaded_goes_on_bit_for_bit():
    torch.manual_seed(0)
    model = make_model(tie_embeddings=True)
    average = WeightAverage(model, 0.95)
    for step in range(3):
        move(model)
        average.update(step)
    resumed_model = make_model(seed=1, tie_embeddings=True)
    resumed_model.load_state_dict(model.state_dict())
    resumed = WeightAverage(resumed_model, 0.95)
    resumed.load({name: tensor.clone() for name, tensor in average.tensors().items()})
    for step in range(3, 6):
        move(model)
        resumed_model.load_state_dict(model.state_dict())
        average.update(step)
        resumed.update(step)
    for name, tensor in average.tensors().items():
        assert torch.equal(resumed.tensors()[name], tensor)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
def test_an_average_of_another_model_is_refused_and_changes_nothing(fault):
    model = make_model()
    average = WeightAverage(model, 0.95)
    tensors = {name: tensor + 1 for name, tensor in average.tensors().items()}
    if fault == "missing":
        del tensors["lm_head.weight"]
    elif fault == "unknown":
        tensors["lm_head.weight_too"] = torch.zeros(1)
    else:
        tensors["lm_head.weight"] = tensors["lm_head.weight"][1:]
    with pytest.raises(CheckpointError, match=r"another model: 'lm_head\.weight(_too)?' does not"):
        average.load(tensors)
    for name, value in model.named_parameters():
        assert torch.equal(average.tensors()[name], value)
