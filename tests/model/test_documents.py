"""Documents that share a row: none of them sees another."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig
from gptlab.errors import BackendError, ConfigError
from gptlab.model import GPT, KVCache

SMALL = {"vocab_size": 13, "seq_len": 20, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
POSITIONS = ["rope", "sinusoidal", "learned", "none"]
BACKENDS = ["reference", "sdpa", "blocked", "auto"]
VARIANTS = [
    {"norm": "rmsnorm", "qk_norm": True, "n_kv_heads": 2},
    {"norm": "layernorm", "bias": True, "activation": "gelu", "qk_norm": False},
]


def make(**changes):
    return GPT(ModelConfig(**{**SMALL, **changes}), seed=0).eval()


def packed(rows, seed=0):
    """Tokens, numbers of documents and positions within them, of rows of documents' lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(13, (len(rows), sum(rows[0])), generator=generator)
    documents = [[n for n, length in enumerate(row) for _ in range(length)] for row in rows]
    positions = [[place for length in row for place in range(length)] for row in rows]
    return tokens, torch.tensor(documents), torch.tensor(positions)


def edited(tokens, where):
    return torch.where(where, (tokens + 1) % 13, tokens)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("variant", VARIANTS, ids=["rmsnorm", "layernorm"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", POSITIONS)
def test_editing_a_document_leaves_the_others_bit_for_bit(kind, backend, variant, reset):
    model = make(positions=kind, attention=backend, **variant)
    tokens, documents, positions = packed([[5, 9, 1, 5], [1, 6, 6, 7]])
    places = {"documents": documents, "positions": positions if reset else None}
    with torch.no_grad():
        before = model(tokens, **places)
        for number in range(4):
            other = documents != number
            after = model(edited(tokens, ~other), **places)
            assert torch.equal(after[other], before[other])
            assert not torch.equal(after[~other], before[~other])


@pytest.mark.parametrize("variant", VARIANTS, ids=["rmsnorm", "layernorm"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", POSITIONS)
def test_each_document_has_the_logits_that_it_has_alone(kind, backend, variant):
    model = make(positions=kind, attention=backend, **variant)
    rows = [[5, 9, 1, 5], [1, 6, 6, 7]]
    tokens, documents, positions = packed(rows)
    with torch.no_grad():
        logits = model(tokens, documents=documents, positions=positions)
        for row, lengths in enumerate(rows):
            for number in range(len(lengths)):
                own = documents[row] == number
                alone = model(tokens[row : row + 1, own])[0]
                torch.testing.assert_close(logits[row, own], alone, atol=2e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(0, 1000),
    st.sampled_from(POSITIONS),
    st.sampled_from(BACKENDS),
)
def test_any_packing_equals_the_documents_alone(lengths, seed, kind, backend):
    model = make(positions=kind, attention=backend, seq_len=30)
    tokens, documents, positions = packed([lengths], seed)
    with torch.no_grad():
        found = model(tokens, documents=documents, positions=positions)
        alone = [model(part) for part in tokens.split(lengths, dim=1)]
    torch.testing.assert_close(found, torch.cat(alone, dim=1), atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_document_behind_a_long_one_is_exact(backend):
    # Longer than a block of keys, so that whole blocks of a query's keys are hidden from it.
    model = make(attention=backend, seq_len=1200, num_layers=1)
    tokens, documents, positions = packed([[1100, 50]])
    places = {"documents": documents, "positions": positions}
    with torch.no_grad():
        before = model(tokens, **places)[:, 1100:]
        after = model(edited(tokens, documents == 0), **places)[:, 1100:]
        assert torch.equal(after, before)
        torch.testing.assert_close(before, model(tokens[:, 1100:]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", POSITIONS)
def test_no_gradient_flows_between_documents(kind, backend):
    model = make(positions=kind, attention=backend)
    tokens, documents, positions = packed([[7, 6, 7]])
    seen = []
    model.embedding.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output) or output.retain_grad()
    )
    logits = model(tokens, documents=documents, positions=positions)
    second = documents == 1
    logits[second].logsumexp(-1).sum().backward()
    gradient = seen[0].grad
    assert torch.equal(gradient[~second], torch.zeros_like(gradient[~second]))
    assert bool((gradient[second] != 0).any(-1).all())


@pytest.mark.parametrize("kind", POSITIONS)
def test_gradients_are_those_of_the_documents_alone(kind):
    model = make(positions=kind).double()
    tokens, documents, positions = packed([[7, 6, 7]])

    def gradients(*losses):
        return torch.autograd.grad(sum(losses), list(model.parameters()))

    together = model(tokens, documents=documents, positions=positions)
    alone = [model(part).logsumexp(-1).sum() for part in tokens.split([7, 6, 7], dim=1)]
    for found, expected in zip(
        gradients(together.logsumexp(-1).sum()), gradients(*alone), strict=True
    ):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", POSITIONS)
def test_one_document_at_the_usual_positions_is_a_plain_row(kind):
    model = make(positions=kind, attention="reference")
    tokens, documents, positions = packed([[20], [20]])
    with torch.no_grad():
        found = model(tokens, documents=documents, positions=positions)
        assert torch.equal(found, model(tokens))


def test_the_numbers_of_documents_only_have_to_differ():
    model = make()
    tokens, documents, _ = packed([[5, 9, 6]])
    with torch.no_grad():
        found = model(tokens, documents=torch.tensor([-3, 10**12, 7])[documents])
        assert torch.equal(found, model(tokens, documents=documents))


@pytest.mark.parametrize("kind", ["rope", "sinusoidal", "learned"])
def test_positions_alone_are_used_and_leave_attention_causal(kind):
    model = make(positions=kind)
    tokens, _, positions = packed([[12, 8]])
    with torch.no_grad():
        logits = model(tokens, positions=positions)
        torch.testing.assert_close(logits[:, :12], model(tokens[:, :12]), atol=2e-6, rtol=0)
        assert not torch.allclose(logits[:, 12:], model(tokens)[:, 12:], atol=1e-4)
        after = model(edited(tokens, torch.arange(20) == 3), positions=positions)
        assert torch.equal(after[:, :3], logits[:, :3])
        assert not torch.equal(after[:, 12:], logits[:, 12:])


def test_in_bf16_documents_stay_apart():
    model = make()
    tokens, documents, positions = packed([[7, 6, 7]])
    places = {"documents": documents, "positions": positions}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        before = model(tokens, **places)[documents == 2]
        after = model(edited(tokens, documents != 2), **places)[documents == 2]
    assert torch.equal(after, before)


@pytest.mark.parametrize("name", ["documents", "positions"])
def test_what_does_not_fit_is_refused(name):
    model = make()
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(ConfigError, match=rf"{name} are \(1, 5\), but the tokens are \(2, 5\)"):
        model(tokens, **{name: tokens[:1]})
    cache = KVCache(model.config, batch_size=2)
    with pytest.raises(ConfigError, match=f"{name} came with a cache"):
        model(tokens, cache=cache, **{name: tokens})
    assert cache.lengths == [0, 0]


def test_flash_attention_takes_no_documents():
    tokens = torch.zeros(1, 5, dtype=torch.int64)
    with pytest.raises(BackendError, match="attention is 'flash', which takes no mask"):
        make(attention="flash")(tokens, documents=tokens)
