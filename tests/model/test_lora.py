import copy

import pytest
import torch
import torch.nn.functional as F

from gptlab.config import LoRA, ModelConfig
from gptlab.errors import ConfigError
from gptlab.model import GPT, KVCache, add_lora, merged, quantize
from gptlab.model.lora import QuantizedLoRALinear, all_modules, freeze_all_but_last, is_adapter
from gptlab.model.settings import with_settings
from gptlab.testing import check_cache

SHAPE = {"vocab_size": 40, "seq_len": 16, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
# A sum of 16 or 64 products of numbers near 1, in another order.
ROUNDING = 2e-5
SHAPES = {
    "plain": {},
    "classic": {
        "positions": "learned",
        "bias": True,
        "tie_embeddings": True,
        "activation": "gelu",
    },
    "llama": {"norm": "rmsnorm", "activation": "swiglu", "n_kv_heads": 2, "qk_norm": False},
}


def make(
    base: str = "full", *, modules: tuple[str, ...] = (), shape: str = "plain", **lora: object
):
    """A model with adapters that say something, and a copy from before."""
    model = GPT(ModelConfig(**SHAPE, **SHAPES[shape]), seed=0)
    plain = copy.deepcopy(model)
    settings = LoRA(
        **{
            "rank": 3,
            "alpha": 5,
            "modules": modules or all_modules(model),
            "base": base,
            "vocab_size": 40,
            "fingerprint": "",
            **lora,
        }
    )
    add_lora(model, settings, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model, plain


def tokens(length: int = 9) -> torch.Tensor:
    return torch.randint(0, 40, (2, length), generator=torch.Generator().manual_seed(3))


def by_hand(model: GPT, plain: GPT) -> GPT:
    """`plain` with W + (5 / 3) B A where `model` has adapters, in the obvious way."""
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    own = model.state_dict()
    for name in own:
        if name.endswith("lora_a"):
            a, b = own[name], own[name.replace("lora_a", "lora_b")]
            weight = name.replace("lora_a", "weight")
            for row in range(len(b)):
                for column in range(a.shape[1]):
                    state[weight][row, column] += 5 / 3 * (b[row] @ a[:, column])
    dense = copy.deepcopy(plain)
    dense.load_state_dict(state)
    return dense


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("base", ["full", "int8"])
def test_a_model_with_new_adapters_is_what_it_was(base, shape):
    model = GPT(ModelConfig(**SHAPE, **SHAPES[shape]), seed=0)
    before = model(tokens())
    names = set(model.state_dict())
    lora = LoRA(
        rank=2, alpha=4, modules=all_modules(model), base=base, vocab_size=40, fingerprint=""
    )
    add_lora(model, lora, seed=0)
    after = model(tokens())
    if base == "full":
        assert torch.equal(after, before)
    else:
        assert 0 < (after - before).abs().max() < 0.01
    base_names = {name for name in model.state_dict() if not is_adapter(name)}
    assert {name for name in base_names if not name.endswith(".scale")} == names
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {name for name in model.state_dict() if is_adapter(name)} != set()


def test_seeds_decide_the_adapters():
    first, second = (
        {name: t for name, t in make()[0].state_dict().items() if name.endswith("lora_a")}
        for _ in range(2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    a = first["blocks.0.feed_forward.down_proj.lora_a"]
    assert a.std().item() == pytest.approx((3 * a.shape[1]) ** -0.5, rel=0.2)
    assert len({tensor.flatten()[0].item() for tensor in first.values()}) == len(first)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("modules", [(), ("qkv_proj",), ("o_proj", "down_proj")])
def test_logits_are_those_of_w_plus_s_b_a(shape, modules):
    model, plain = make(shape=shape, modules=modules)
    dense = by_hand(model, plain)
    expected = dense(tokens())
    assert (expected - plain(tokens())).abs().max() > 100 * ROUNDING
    torch.testing.assert_close(model(tokens()), expected, rtol=0, atol=ROUNDING)
    joined = merged(model)
    torch.testing.assert_close(joined(tokens()), expected, rtol=0, atol=ROUNDING)
    assert joined.lora is None
    assert type(joined.blocks[0].attention.qkv_proj) is type(plain.blocks[0].attention.qkv_proj)
    assert joined.state_dict().keys() == plain.state_dict().keys()
    assert all(parameter.requires_grad for parameter in joined.parameters())


def test_merging_leaves_the_model_with_adapters_as_it_was():
    model, _ = make("int8", shape="classic")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    joined = merged(model)
    with torch.no_grad():
        joined.blocks[0].attention.qkv_proj.weight.zero_()
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not model.embedding.weight.requires_grad
    assert model.lora is not None
    assert merged(joined) is joined


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_the_dense_product(shape):
    """dL/dA = s B' G and dL/dB = s G A', where G is the gradient of the whole matrix."""
    model, plain = make(shape=shape)
    dense = by_hand(model, plain)
    targets = tokens().flip(1)
    for network in (model, dense):
        F.cross_entropy(network(tokens()).flatten(0, 1), targets.flatten()).backward()
    matrices = dict(dense.named_parameters())
    for name, layer in model.named_modules():
        if not hasattr(layer, "lora_a"):
            continue
        whole = matrices[f"{name}.weight"].grad
        a, b = layer.lora_a.detach(), layer.lora_b.detach()
        torch.testing.assert_close(layer.lora_a.grad, 5 / 3 * b.T @ whole, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(layer.lora_b.grad, 5 / 3 * whole @ a.T, rtol=1e-4, atol=1e-6)
    frozen = [p for name, p in model.named_parameters() if not is_adapter(name)]
    assert all(parameter.grad is None for parameter in frozen)


def test_an_int8_base_computes_and_learns_as_the_matrices_that_it_stands_for():
    model, _ = make("int8")
    dense = merged(model)
    torch.testing.assert_close(model(tokens()), dense(tokens()), rtol=0, atol=ROUNDING)
    for network in (model, dense):
        network(tokens()).square().sum().backward()
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLoRALinear):
            whole = dense.get_submodule(name).weight.grad
            expected = 5 / 3 * whole @ layer.lora_a.detach().T
            torch.testing.assert_close(layer.lora_b.grad, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("modules", [(), ("down_proj",)])
def test_an_int8_base_is_not_kept_in_floating_point_for_the_way_back(modules):
    model, _ = make("int8", modules=modules)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        logits = model(tokens())
    shapes = {tuple(layer.shape) for layer in model.modules() if hasattr(layer, "like")}
    floats = [t for t in kept if t.is_floating_point() and tuple(t.shape) in shapes]
    assert len(shapes) == 4
    assert not floats
    logits.sum().backward()


@pytest.mark.parametrize("base", ["full", "int8"])
def test_in_autocast_numbers_are_those_of_16_bits(base):
    model, _ = make(base)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(tokens())
    logits.float().square().sum().backward()
    exact = merged(model)(tokens())
    assert 0 < (logits.float() - exact).abs().max() < 0.05 * exact.abs().max()
    gradients = [p.grad for name, p in model.named_parameters() if is_adapter(name)]
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)
    assert any(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize("base", ["full", "int8"])
def test_a_cached_token_equals_a_recomputed_one(base):
    check_cache(make(base)[0].eval())


def test_one_row_compiled_reads_as_a_plain_pass(monkeypatch):
    """What compiled single steps compute, without the minutes of a compiler."""
    model = make()[0].eval()
    cache = KVCache(model.config, batch_size=1)
    plain = KVCache(model.config, batch_size=1)
    for length in (4, 1):
        with torch.no_grad():
            expected = model(tokens(length)[:1], cache=plain)
            monkeypatch.setattr("torch.compiler.is_compiling", lambda: True)
            found = model(tokens(length)[:1], cache=cache)
            monkeypatch.undo()
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)


def test_dropout_is_of_the_adapters_inputs_while_training():
    model, _ = make(dropout=0.5)
    still = model.eval()(tokens())
    torch.manual_seed(0)
    first = model.train()(tokens())
    again = model(tokens())
    torch.manual_seed(0)
    assert torch.equal(model(tokens()), first)
    assert not torch.equal(again, first)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.zero_()
    silent = model(tokens())
    assert torch.equal(silent, model.eval()(tokens()))
    assert not torch.equal(silent, still)


def test_below_the_first_adapter_there_is_no_graph():
    model, _ = make(modules=("down_proj",))
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, args, _out: seen.append(args[0].requires_grad))
    model(tokens())
    assert seen == [False, True]


def test_only_the_last_layers_learn():
    model = GPT(ModelConfig(**SHAPE), seed=0)
    freeze_all_but_last(model, 1)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    own = {name for name in model.state_dict() if name.startswith("blocks.1.")}
    assert learning == own | {"norm.weight", "lm_head.weight"}
    tied = GPT(ModelConfig(**SHAPE, tie_embeddings=True), seed=0)
    freeze_all_but_last(tied, 2)
    assert not tied.embedding.weight.requires_grad
    with pytest.raises(ConfigError, match="train_last_layers is 3, but the model has 2 layers"):
        freeze_all_but_last(model, 3)


def test_what_can_not_have_adapters_says_so():
    model, _ = make()
    with pytest.raises(ConfigError, match=r"has adapters, .* merge it first"):
        add_lora(model, model.lora)
    plain = GPT(ModelConfig(**SHAPE), seed=0)
    with pytest.raises(ConfigError, match="8 bits a weight, too few to adapt it"):
        add_lora(quantize(plain), model.lora)
    gated = model.lora.replace(modules=("gate_proj",))
    with pytest.raises(
        ConfigError,
        match="lora_modules has 'gate_proj', but the model has only qkv_proj, o_proj, up_proj, "
        "down_proj",
    ):
        add_lora(plain, gated)
    broken = GPT(ModelConfig(**SHAPE), seed=0)
    with torch.no_grad():
        broken.blocks[1].attention.o_proj.weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"blocks\.1\.attention\.o_proj\.weight is not finite"):
        add_lora(broken, model.lora.replace(base="int8"))


@pytest.mark.parametrize("positions", ["rope", "learned", "sinusoidal", "none"])
def test_a_shorter_context_reads_what_fits_into_it_alike(positions):
    model = GPT(ModelConfig(**SHAPE, positions=positions), seed=0).eval()
    expected = model(tokens(8))
    short = with_settings(model, seq_len=8, dropout=0.25, attention="sdpa")
    torch.testing.assert_close(short(tokens(8)), expected, rtol=0, atol=ROUNDING)
    assert short.config.seq_len == 8
    assert short.blocks[0].dropout.p == 0.25
    assert short.attention == "sdpa"
    assert short.num_parameters() == GPT(short.config).num_parameters()
    with pytest.raises(ConfigError, match="9 tokens exceed the model's seq_len of 8"):
        short(tokens(9))


def test_only_computed_positions_go_further():
    rope = GPT(ModelConfig(**SHAPE), seed=0).eval()
    expected = rope(tokens(16))
    longer = with_settings(rope, seq_len=24, dropout=0.0, attention="auto")
    assert torch.equal(longer(tokens(16)), expected)
    assert longer(tokens(24)).isfinite().all()
    learned = GPT(ModelConfig(**SHAPE, positions="learned"), seed=0)
    with pytest.raises(ConfigError, match="seq_len is 24, but the model has learned 16 positions"):
        with_settings(learned, seq_len=24, dropout=0.0, attention="auto")
