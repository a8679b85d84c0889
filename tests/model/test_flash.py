import sys
from importlib import metadata
from types import ModuleType, SimpleNamespace

import pytest
import torch

from gptlab.config import ModelConfig, TransformerConfig
from gptlab.errors import BackendError
from gptlab.model import Encoder, Transformer, attend, flash

MODULES = {package.distribution: package.module for package in flash.PACKAGES}
HOPPER, BLACKWELL, AMPERE, TURING, CONSUMER = (9, 0), (10, 0), (8, 6), (7, 5), (12, 0)


def queries(*, device="cuda", dtype=torch.bfloat16):
    """What the choice looks at, without a GPU."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype)


@pytest.fixture(autouse=True)
def fresh_imports(monkeypatch):
    flash._function.cache_clear()
    for module in MODULES.values():
        monkeypatch.delitem(sys.modules, module, raising=False)
    yield
    flash._function.cache_clear()


@pytest.fixture
def machine(monkeypatch):
    """Pretends that distributions are installed and that the GPU is of some capability."""
    calls = []

    def pretend(*installed, capability=HOPPER, as_tuple=False):
        def distribution(name):
            if name not in installed:
                raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "distribution", distribution)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        for name in installed:
            module = ModuleType(MODULES[name])

            def kernel(q, k, v, *, name=name, **options):
                calls.append((name, q, k, v, options))
                return ("output", "log-sum-exp") if as_tuple else "output"

            module.flash_attn_func = kernel
            monkeypatch.setitem(sys.modules, MODULES[name], module)
            # Generation 4 lives inside the namespace of generation 2.
            if "flash_attn" not in sys.modules:
                monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
        return calls

    return pretend


def test_without_a_package_the_error_names_the_way_out(machine):
    machine()
    inputs = [torch.zeros(1, 1, 1, 8)] * 3
    with pytest.raises(BackendError, match=r"no flash-attn package.*pip install flash-attn"):
        attend(*inputs, backend="flash")


@pytest.mark.parametrize(
    ("installed", "capability", "dropout", "chosen"),
    [
        (["flash-attn", "flash-attn-3", "flash-attn-4"], HOPPER, 0.0, "flash-attn-4"),
        (["flash-attn", "flash-attn-3", "flash-attn-4"], BLACKWELL, 0.0, "flash-attn-4"),
        (["flash-attn", "flash-attn-3", "flash-attn-4"], AMPERE, 0.0, "flash-attn-3"),
        (["flash-attn", "flash-attn-3", "flash-attn-4"], CONSUMER, 0.0, "flash-attn"),
        (["flash-attn", "flash-attn-3", "flash-attn-4"], HOPPER, 0.1, "flash-attn"),
        (["flash-attn", "flash-attn-3"], HOPPER, 0.0, "flash-attn-3"),
        (["flash-attn"], HOPPER, 0.0, "flash-attn"),
    ],
)
@pytest.mark.parametrize("as_tuple", [False, True])
def test_the_newest_fitting_generation_serves(
    machine, installed, capability, dropout, chosen, as_tuple
):
    calls = machine(*installed, capability=capability, as_tuple=as_tuple)
    q = queries()
    assert flash.flash_attention(q, "k", "v", causal=True, dropout=dropout) == "output"
    options = {"causal": True} | ({"dropout_p": dropout} if chosen == "flash-attn" else {})
    assert calls == [(chosen, q, "k", "v", options)]


@pytest.mark.parametrize(
    ("installed", "capability", "device", "dtype", "dropout", "message"),
    [
        ("flash-attn", HOPPER, "cpu", torch.bfloat16, 0.0, "model is on cpu.*--attention auto"),
        ("flash-attn", HOPPER, "cuda", torch.float32, 0.0, "torch.float32.*--precision bf16"),
        ("flash-attn", TURING, "cuda", torch.float16, 0.0, r"flash-attn does not.*capability 7\.5"),
        ("flash-attn-4", AMPERE, "cuda", torch.float16, 0.0, r"flash-attn-4 does not.*8\.6"),
        ("flash-attn-3", HOPPER, "cuda", torch.float16, 0.1, "flash-attn-3 has no dropout.*--drop"),
    ],
)
def test_what_cannot_serve_says_why(
    machine, installed, capability, device, dtype, dropout, message
):
    machine(installed, capability=capability)
    with pytest.raises(BackendError, match=message) as raised:
        flash.flash_attention(
            queries(device=device, dtype=dtype), "k", "v", causal=True, dropout=dropout
        )
    assert "\n" not in str(raised.value)


def test_a_broken_installation_says_so(machine, monkeypatch):
    machine("flash-attn")
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    with pytest.raises(BackendError, match=r"flash-attn does not import:.*reinstall it"):
        flash.flash_attention(queries(), "k", "v", causal=True, dropout=0.0)


def test_nothing_is_imported_before_it_is_chosen(machine, monkeypatch):
    machine("flash-attn")
    imported = []
    monkeypatch.setattr(flash.importlib, "import_module", imported.append)
    attend(*[torch.zeros(1, 1, 1, 8)] * 3, backend="auto")
    with pytest.raises(BackendError):
        flash.flash_attention(queries(device="cpu"), "k", "v", causal=True, dropout=0.0)
    assert imported == []


def of_rows_in_a_line(calls):
    """What flash-attn does, in its shapes: all rows one after another, cut at their ends."""

    def plain(q, k, v, *, causal, dropout_p):
        calls.append("plain")
        return attend(q, k, v, backend="reference", causal=causal)

    def varlen(
        q, k, v, *, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, causal, dropout_p
    ):
        calls.append("varlen")
        assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
        assert not causal
        rows = []
        for row in range(len(cu_seqlens_q) - 1):
            queries = q[cu_seqlens_q[row] : cu_seqlens_q[row + 1]]
            keys, values = (x[cu_seqlens_k[row] : cu_seqlens_k[row + 1]] for x in (k, v))
            assert (len(queries) <= max_seqlen_q, len(keys) <= max_seqlen_k) == (True, True)
            one = (x.unsqueeze(0) for x in (queries, keys, values))
            rows.append(attend(*one, backend="reference", causal=causal)[0])
        return torch.cat(rows)

    return plain, varlen


@pytest.fixture
def kernels(machine, monkeypatch):
    """A package that computes on a CPU in any numbers, and which of its functions were called."""
    machine("flash-attn")
    calls = []
    module = sys.modules["flash_attn"]
    module.flash_attn_func, module.flash_attn_varlen_func = of_rows_in_a_line(calls)
    monkeypatch.setattr(flash, "_package", lambda *_: flash.PACKAGES[-1])
    return calls


SHAPE = {"vocab_size": 11, "seq_len": 9, "embed_dim": 8, "num_layers": 1, "n_heads": 2}


def test_rows_of_different_lengths_by_flash(kernels):
    tokens, lengths = torch.randint(11, (3, 6)), torch.tensor([6, 1, 4])
    target = torch.randint(11, (3, 5))
    model = Transformer(TransformerConfig(**SHAPE, n_kv_heads=1), seed=0).eval()
    expected = model(tokens, target, source_lengths=lengths)
    model.use_attention("flash")
    found = model(tokens, target, source_lengths=lengths)
    torch.testing.assert_close(found, expected)
    assert kernels == ["varlen", "plain", "varlen"]
    # Of even rows, none is cut.
    torch.testing.assert_close(
        model(tokens, target), model(tokens, target, source_lengths=torch.tensor([6, 6, 6]))
    )
    assert kernels[3:] == ["plain"] * 3 + ["varlen", "plain", "varlen"]
    encoder = Encoder(ModelConfig(**SHAPE), seed=0).eval()
    expected = encoder(tokens, lengths=lengths)
    encoder.use_attention("flash")
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            encoder(tokens, lengths=lengths)[row, :length], expected[row, :length]
        )


def test_uneven_rows_with_a_causal_mask_are_not_flash(kernels):
    inputs = [torch.zeros(2, 3, 1, 8)] * 3
    lengths = torch.tensor([3, 1])
    for options in ({"causal": True}, {"causal": False, "window": 2}):
        with pytest.raises(
            BackendError, match=r"rows of different lengths without a causal mask a"
        ):
            attend(*inputs, backend="flash", lengths_B=lengths, **options)
    assert kernels == []
