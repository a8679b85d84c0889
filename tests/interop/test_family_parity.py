"""A model read from transformers' files computes and learns what it does there, and goes back.

Their rotary angles are rounded to float32, which moves a logit by as much as a position is far.
"""

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from gptlab.interop import read_huggingface, write_huggingface
from gptlab.interop.families import family_of
from interop.peers import CONFIGS, FAMILIES, VOCAB, as_theirs, make_peer, save_peer

STEPS = 10


def tokens(length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (2, length), generator=torch.Generator().manual_seed(1))


def largest_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def tensors_of(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_there_and_back(name, tmp_path):
    theirs = save_peer(name, tmp_path / "theirs")
    ours = read_huggingface(tmp_path / "theirs")
    ids = tokens(ours.config.seq_len)
    expected = theirs(ids).logits
    bound = 2e-4 if "long" in name else 1e-5
    assert largest_difference(ours(ids), expected) < bound

    written = write_huggingface(tmp_path / "ours", ours, None)
    assert written is family_of(ours.config)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    if "dynamic" not in name:
        # Beyond its context, where ours ends, it would be stretched.
        assert torch.equal(again(ids).logits, expected)
    back = read_huggingface(tmp_path / "ours")
    assert back.config == ours.config
    for tensor, value in ours.state_dict().items():
        assert torch.equal(back.state_dict()[tensor], value), tensor


@pytest.mark.parametrize("name", [*FAMILIES, "llama, llama3, long", "qwen2, yarn, long"])
def test_loss_gradients_and_ten_steps(name, tmp_path):
    theirs = save_peer(name, tmp_path, dtype=torch.float64)
    ours = read_huggingface(tmp_path)
    assert ours.dtype == torch.float64
    bound = 1e-4 if "long" in name else 1e-6
    ids = tokens(ours.config.seq_len)
    models = (ours, theirs)
    optimizers = [torch.optim.AdamW(one.parameters(), lr=1e-3, eps=1e-4) for one in models]
    for step in range(STEPS):
        losses = []
        for model, optimizer in zip(models, optimizers, strict=True):
            logits = model(ids) if model is ours else model(ids).logits
            optimizer.zero_grad()
            losses.append(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
            losses[-1].backward()
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=bound)
        if step == 0:
            gradients = as_theirs(ours, {n: p.grad for n, p in ours.named_parameters()})
            for parameter, value in theirs.named_parameters():
                assert largest_difference(gradients[parameter], value.grad) < 10 * bound, parameter
        for optimizer in optimizers:
            optimizer.step()
    weights = as_theirs(ours, tensors_of(ours))
    for parameter, value in theirs.named_parameters():
        assert largest_difference(weights[parameter], value) < 10 * bound, parameter


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
def test_every_attention_backend(name, backend, tmp_path):
    theirs = save_peer(name, tmp_path)
    ours = read_huggingface(tmp_path, attention=backend)
    assert ours.attention == backend
    ids = tokens(13)
    assert largest_difference(ours(ids), theirs(ids).logits) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", FAMILIES)
def test_sixteen_bits_stay_as_they_are(name, dtype, tmp_path):
    theirs = save_peer(name, tmp_path / "theirs", dtype=dtype)
    ours = read_huggingface(tmp_path / "theirs")
    assert {p.dtype for p in ours.parameters()} == {dtype}
    write_huggingface(tmp_path / "ours", ours, None)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert again.dtype == dtype
    for parameter, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[parameter], value), parameter


def test_numbers_of_several_types_become_the_one_that_holds_them(tmp_path):
    theirs = make_peer("llama", dtype=torch.bfloat16)
    theirs.model.norm.float()
    theirs.save_pretrained(tmp_path)
    ours = read_huggingface(tmp_path)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert torch.equal(ours.norm.weight, theirs.model.norm.weight)
