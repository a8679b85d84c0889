import pytest
import torch

import gptlab
from gptlab import testing
from gptlab.config import ModelConfig, TransformerConfig
from gptlab.model import GPT, Encoder, Transformer, quantize

SHAPE = {"vocab_size": 13, "seq_len": 16, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
CHECKS = [
    testing.check_causality,
    testing.check_batch_independence,
    testing.check_cache,
    testing.check_documents,
    testing.check_loss_split,
]


class LooksAhead(GPT):
    def logits(self, hidden):
        return super().logits(hidden - 0.1 * hidden.roll(-1, dims=1))


class MixesRows(GPT):
    def logits(self, hidden):
        return super().logits(hidden - 0.1 * hidden.mean(dim=0))


class MisplacesAfterCache(GPT):
    def hidden_states(self, tokens, *, cache=None, **places):
        hidden = super().hidden_states(tokens, cache=cache, **places)
        return hidden if cache is None else hidden * 1.01


class LosesUnevenRows(GPT):
    def hidden_states(self, tokens, *, counts=None, **places):
        if counts is not None:
            counts = [max(counts)] * len(counts)
        return super().hidden_states(tokens, counts=counts, **places)


class LooksAcrossDocuments(GPT):
    def hidden_states(self, tokens, **places):
        return super().hidden_states(tokens, **{**places, "documents": None})


class CountsAcrossDocuments(GPT):
    def hidden_states(self, tokens, **places):
        return super().hidden_states(tokens, **{**places, "positions": None})


class AveragesTheGradient(GPT):
    def logits(self, hidden):
        logits = super().logits(hidden)
        return logits.detach() + (logits - logits.detach()) / len(logits)


class BreaksDown(GPT):
    def logits(self, hidden):
        return super().logits(hidden) * float("nan")


def make(kind=GPT, **changes):
    return kind(ModelConfig(**{**SHAPE, **changes}), seed=0)


def make_pair(kind=Transformer, **changes):
    return kind(TransformerConfig(**{**SHAPE, **changes}), seed=0)


@pytest.mark.parametrize("positions", ["rope", "sinusoidal", "learned", "none"])
@pytest.mark.parametrize("seq_len", [1, 2, 16])
def test_our_models_pass(positions, seq_len):
    gptlab.testing.check_model(make(positions=positions, seq_len=seq_len, n_kv_heads=2))


KINDS = [
    {"src_vocab_size": 7, "norm_place": "post", "positions": "learned"},
    {"tie_embeddings": True, "n_kv_heads": 2, "encoder_layers": 1},
    {"seq_len": 1},
]


@pytest.mark.parametrize("changes", KINDS)
def test_our_encoder_decoders_and_encoders_pass(changes):
    testing.check_model(make_pair(**changes))
    own = {name: value for name, value in changes.items() if name in ModelConfig.model_fields}
    testing.check_model(make(Encoder, **own))
    testing.check_model(quantize(make_pair(**changes)))
    testing.check_model(make_pair(**changes).to(torch.bfloat16))


class LooksAtFilling(Transformer):
    def encode(self, source, **_):
        return self.encoder.hidden_states(source)


class ForgetsLengths(Transformer):
    def remember(self, source, **_):
        return super().remember(source)


class SeesTargetsAhead(Transformer):
    def logits(self, hidden):
        return super().logits(hidden - 0.1 * hidden.roll(-1, dims=1))


class ReadsFilling(Encoder):
    def hidden_states(self, tokens, **_):
        return super().hidden_states(tokens)


@pytest.mark.parametrize(
    ("kind", "check", "invariant"),
    [
        (LooksAtFilling, testing.check_padding, "padding"),
        (LooksAtFilling, testing.check_batch_independence, "batch independence"),
        (LooksAtFilling, testing.check_loss_split, "loss split"),
        (ForgetsLengths, testing.check_cache, "cache"),
        (SeesTargetsAhead, testing.check_causality, "causality"),
        (ReadsFilling, testing.check_padding, "padding"),
    ],
)
def test_a_broken_encoder_decoder_is_told_by_name(kind, check, invariant):
    model = make(kind) if issubclass(kind, Encoder) else make_pair(kind)
    for parameter in model.parameters():
        # So that attention looks at some tokens more than at others.
        parameter.data *= 3
    message = rf"^{invariant} does not hold: the largest deviation is \S+, the tolerance 0.00035$"
    for function in (check, testing.check_model):
        with pytest.raises(AssertionError, match=message if function is check else "does not hold"):
            function(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_pass(dtype):
    testing.check_model(make(norm="rmsnorm", qk_norm=True).to(dtype))


@pytest.mark.parametrize(
    ("kind", "check", "invariant"),
    [
        (LooksAhead, testing.check_causality, "causality"),
        (MixesRows, testing.check_batch_independence, "batch independence"),
        (MixesRows, testing.check_loss_split, "loss split"),
        (MisplacesAfterCache, testing.check_cache, "cache"),
        (LosesUnevenRows, testing.check_cache, "cache of uneven rows"),
        (LooksAcrossDocuments, testing.check_documents, "separation of documents"),
        (CountsAcrossDocuments, testing.check_documents, "documents in a row"),
        (AveragesTheGradient, testing.check_loss_split, "loss split"),
        *[(BreaksDown, check, ".*") for check in CHECKS],
    ],
)
def test_a_broken_model_is_told_by_name(kind, check, invariant):
    message = rf"^{invariant} does not hold: the largest deviation is \S+, the tolerance 0.00035$"
    for function in (check, testing.check_model):
        with pytest.raises(AssertionError, match=message if function is check else "does not hold"):
            function(make(kind, positions="learned"))


def test_own_tokens_and_tolerance():
    model = make(MixesRows)
    alike = torch.tensor([[1, 2, 3]] * 2)
    with pytest.raises(AssertionError):
        testing.check_batch_independence(model, tokens=torch.tensor([[1, 2, 3], [4, 5, 6]]))
    testing.check_batch_independence(make(), tokens=alike)
    testing.check_batch_independence(model, tolerance=10.0)


def test_the_model_is_left_as_it_was():
    model = make(dropout=0.5)
    model.train()
    model.blocks[0].eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    testing.check_model(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert not model.blocks[0].training
    assert not model.blocks[0].dropout.training
    assert model.blocks[1].dropout.training
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
