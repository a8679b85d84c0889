import pytest
import torch
import torch.nn.functional as F

from gptlab.config import ModelConfig
from gptlab.model import GPT, KVCache
from gptlab.model import stack as stack_module

SHAPE = {"vocab_size": 19, "seq_len": 12, "embed_dim": 16, "num_layers": 3, "n_heads": 4}
VARIANTS = [
    {},
    {"dropout": 0.3},
    {"dropout": 0.3, "attention": "reference"},
    {"positions": "learned", "activation": "swiglu", "norm": "rmsnorm", "bias": True},
    {"tie_embeddings": True, "n_kv_heads": 2, "logit_soft_cap": 5.0},
]


def learned(config, *, recompute, autocast=False, documents=None):
    """Logits and gradients of a training pass, and where torch's generator is afterwards."""
    model = GPT(config, seed=0)
    model.activation_checkpointing = recompute
    model.train()
    torch.manual_seed(7)
    tokens = torch.randint(19, (3, 12))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(tokens, documents=documents)
    F.cross_entropy(logits.float().flatten(0, 1), tokens.roll(-1, 1).flatten()).backward()
    return [logits, *(p.grad for p in model.parameters()), torch.rand(3)]


def assert_equal(ours, expected):
    assert len(ours) == len(expected)
    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("autocast", [False, True])
def test_values_gradients_and_random_numbers_are_the_same_bits(changes, autocast):
    config = ModelConfig(**{**SHAPE, **changes})
    plain = learned(config, recompute=False, autocast=autocast)
    assert_equal(learned(config, recompute=True, autocast=autocast), plain)


def test_documents_stay_apart():
    config = ModelConfig(**SHAPE)
    documents = (torch.arange(12) // 5).expand(3, 12)
    plain = learned(config, recompute=False, documents=documents)
    assert_equal(learned(config, recompute=True, documents=documents), plain)


class Saved:
    """Bytes that the backward pass keeps, each storage once."""

    def __init__(self):
        self.storages = {}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *_):
        self.hooks.__exit__()

    def keep(self, tensor):
        storage = tensor.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self):
        return sum(self.storages.values())


def test_it_keeps_less():
    config = ModelConfig(**{**SHAPE, "num_layers": 8})
    kept = {}
    for recompute in (False, True):
        model = GPT(config, seed=0)
        model.activation_checkpointing = recompute
        with Saved() as saved:
            logits = model(torch.zeros(3, 12, dtype=torch.int64))
        kept[recompute] = saved.bytes
        logits.sum().backward()
    assert kept[True] < kept[False] / 3


@pytest.mark.parametrize("case", ["evaluating", "without gradients", "with a cache"])
def test_nothing_is_computed_twice_where_nothing_is_learned(monkeypatch, case):
    def refused(*_args, **_options):
        raise AssertionError("checkpointed")

    monkeypatch.setattr(stack_module, "checkpoint", refused)
    config = ModelConfig(**SHAPE)
    model = GPT(config, seed=0)
    model.activation_checkpointing = True
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(AssertionError, match="checkpointed"):
        model(tokens)
    if case == "evaluating":
        model.eval()(tokens)
    elif case == "without gradients":
        with torch.no_grad():
            model(tokens)
    else:
        cpu = torch.device("cpu")
        model(
            tokens, cache=KVCache(config, batch_size=2, capacity=4, device=cpu, dtype=torch.float32)
        )


def test_a_model_does_without_unless_told():
    assert not GPT(ModelConfig(**SHAPE), seed=0).activation_checkpointing
