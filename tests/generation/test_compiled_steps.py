import mmap

import pytest
import torch

from gptlab.config import ModelConfig, SamplingConfig
from gptlab.errors import BackendError
from gptlab.generation import compiled_steps
from gptlab.generation.compiled_steps import CompiledSteps
from gptlab.generation.compiling import Compiler
from gptlab.generation.engine import continue_rows
from gptlab.generation.rows import Row
from gptlab.generation.steps import Steps
from gptlab.generation.weights import in_huge_pages
from gptlab.model import GPT, quantize


def lively(**changes):
    shape = {"vocab_size": 37, "seq_len": 40, "embed_dim": 32, "num_layers": 1, "n_heads": 4}
    model = GPT(ModelConfig(**{**shape, **changes}), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(12 if parameter.dim() > 1 else 1)
    return model


def texts(model, steps):
    """New ids of one row, and of rows that differ, leave early, and fill the context."""
    found = []
    for prompts in ([[1, 2, 3]], [[4], [5] * 9, [6, 7], [4]], [[1] * 39]):
        rows = [
            Row(
                prompt,
                SamplingConfig(max_new_tokens=8 + 5 * n, temperature=n % 2, ignore_eos=True),
                seed=n,
            )
            for n, prompt in enumerate(prompts)
        ]
        for _ in continue_rows(model, rows, steps=steps):
            pass
        found.append([row.new_ids for row in rows])
    return found


@pytest.mark.parametrize(
    ("shape", "bits"),
    [
        ({"n_kv_heads": 2, "window": 6, "bias": True, "positions": "learned"}, None),
        ({"tie_embeddings": True, "norm": "rmsnorm", "logit_soft_cap": 5.0, "qk_norm": False}, 8),
    ],
)
def test_compiled_steps_give_the_tokens_of_plain_ones(shape, bits, monkeypatch):
    looks, looked_at = compiled_steps._looks_at_arguments, []

    def noted(guards):
        chosen = looks(guards)
        looked_at.extend(guard.name for guard, looked in zip(guards, chosen, strict=True) if looked)
        return chosen

    monkeypatch.setattr(compiled_steps, "_looks_at_arguments", noted)
    model = lively(**shape)
    if bits:
        model = quantize(model, bits=bits)
    expected = texts(model, Steps(model))
    assert texts(model, CompiledSteps(model, must=True)) == expected
    assert len({token for rows in expected for ids in rows for token in ids}) > 3
    assert any("tokens_B1" in name for name in looked_at)
    assert [name for name in looked_at if "model" in name] == []


def test_auto_compiles_by_the_request_and_not_by_what_came_before(monkeypatch):
    compiler = Compiler(lively(), compile="auto")
    assert type(compiler.steps(10)) is Steps
    long = compiler.steps(10**7)
    assert isinstance(long, CompiledSteps)
    assert compiler.steps(10**7) is long
    assert type(compiler.steps(10)) is Steps
    assert isinstance(Compiler(lively(), compile="on").steps(1), CompiledSteps)
    assert type(Compiler(lively(), compile="off").steps(10**9)) is Steps


def test_what_was_compiled_is_not_used_for_a_model_that_has_changed():
    model = lively()
    compiler = Compiler(model, compile="on")
    first = compiler.steps(1)
    model.to(torch.bfloat16)
    assert not first.is_current
    assert compiler.steps(1) is not first


def broken(*arguments):
    raise RuntimeError("no compiler\nat all")


def test_where_compiling_fails_it_goes_on_without_or_says_why():
    model = lively()
    steps = CompiledSteps(model, must=False)
    steps._compiled = broken
    with pytest.warns(
        UserWarning, match="torch.compile fails here, so it goes on without: no comp"
    ):
        found = texts(model, steps)
    assert found == texts(model, Steps(model))
    steps = CompiledSteps(model, must=True)
    steps._compiled = broken
    with pytest.raises(BackendError, match=r"compile fails: no compiler; write --compile off"):
        texts(model, steps)


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="the system has no such pages")
def test_weights_that_move_stay_what_they_are():
    model = lively(tie_embeddings=True)
    parameters = dict(model.named_parameters())
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode():
        in_huge_pages(model)
    assert all(dict(model.named_parameters())[name] is p for name, p in parameters.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    pointers = [tensor.data_ptr() for tensor in parameters.values()]
    assert all(pointer % 64 == 0 for pointer in pointers)
    assert max(pointers) - min(pointers) < 4 * model.num_parameters() + 64 * len(pointers)
    model(torch.tensor([[1, 2]])).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.embedding.weight, before["embedding.weight"])


def test_weights_stay_where_they_are_without_memory(monkeypatch):
    def full(*arguments, **options):
        raise OSError(12, "Cannot allocate memory")

    model = lively()
    pointer = model.embedding.weight.data_ptr()
    monkeypatch.setattr(mmap, "mmap", full)
    in_huge_pages(model)
    assert model.embedding.weight.data_ptr() == pointer
