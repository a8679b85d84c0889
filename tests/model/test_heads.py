"""Heads: pooling against a loop over rows, rows alone against rows together, losses by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gptlab.config import HeadSettings, ModelConfig, OptimizerConfig
from gptlab.config.heads import IGNORED
from gptlab.errors import ConfigError
from gptlab.model import GPT
from gptlab.model.head import EmptyHead
from gptlab.model.heads import HEADS, add_head, pooled
from gptlab.training.optimizers import make_optimizers
from gptlab.training.optimizers.groups import group_parameters

WIDTH = 12
SETTINGS = {
    "sequence_classification": {"labels": ("a", "b", "c")},
    "regression": {"num_values": 2},
    "token_classification": {"labels": ("a", "b", "c")},
    "embedding": {"normalise": True},
}


def settings(name, **more):
    return HeadSettings(head=name, **{**SETTINGS[name], **more})


def backbone(**more):
    shape = {"vocab_size": 30, "seq_len": 16, "embed_dim": WIDTH, "num_layers": 2, "n_heads": 2}
    return GPT(ModelConfig(**{**shape, **more}), seed=1).eval()


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.sampled_from(["last", "mean"]))
def test_pooling_is_what_a_loop_over_rows_gives(lengths, pooling):
    hidden = torch.randn(len(lengths), 7, 3, generator=torch.Generator().manual_seed(0))
    for row, length in enumerate(lengths):
        # Not even what is no number may count where a row is filled up.
        hidden[row, length:] = math.nan
    found = pooled(hidden, torch.tensor(lengths), pooling)
    for row, length in enumerate(lengths):
        states = [hidden[row, place] for place in range(length)]
        expected = states[-1] if pooling == "last" else sum(states) / length
        assert torch.allclose(found[row], expected, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_row_alone_equals_the_row_among_others(name, pooling):
    model = backbone()
    add_head(model, settings(name, pooling=pooling), seed=3)
    tokens = torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([9, 1, 4, 6])
    together = model.head(model.hidden_states(tokens), lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model.head(
            model.hidden_states(tokens[row : row + 1, :length]), lengths[row : row + 1]
        )
        of_row = together[row]
        if name == "token_classification":
            of_row = of_row[:length]
        assert torch.allclose(alone[0], of_row, atol=1e-5)


def test_the_loss_of_classes_is_the_mean_of_logarithms_of_shares():
    head = HEADS["token_classification"](settings("token_classification"), width=WIDTH)
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[0, IGNORED, 2], [IGNORED, 1, IGNORED]])
    losses = head.loss(logits, targets)
    for row in range(2):
        for place in range(3):
            target = int(targets[row, place])
            exps = [math.exp(x) for x in logits[row, place].tolist()]
            expected = 0.0 if target == IGNORED else -math.log(exps[target] / sum(exps))
            assert losses[row, place].item() == pytest.approx(expected, abs=1e-6)
    assert head.weights(targets).tolist() == [[1, 0, 1], [0, 1, 0]]
    assert head.estimate(logits).tolist() == logits.max(-1).indices.tolist()


def test_the_loss_of_numbers_is_their_mean_squared_error():
    head = HEADS["regression"](settings("regression"), width=WIDTH)
    outputs, targets = torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([[1.0, 4.0], [3, 1]])
    assert head.loss(outputs, targets).tolist() == [2.0, 12.5]
    assert head.weights(targets).tolist() == [1.0, 1.0]


def test_the_loss_of_a_pair_is_of_its_cosine():
    head = HEADS["embedding"](settings("embedding"), width=2)
    pairs = torch.tensor([[[1.0, 0.0], [2.0, 0.0]], [[0.0, 3.0], [4.0, 0.0]]])
    assert head.estimate(pairs).tolist() == [[1.0], [0.0]]
    assert head.loss(pairs, torch.tensor([[1.0], [0.5]])).tolist() == [0.0, 0.25]


def test_an_embedding_has_length_one_where_that_is_asked_for():
    hidden, lengths = torch.randn(3, 4, WIDTH), torch.tensor([4, 2, 1])
    for normalise in (True, False):
        head = HEADS["embedding"](settings("embedding", normalise=normalise), width=WIDTH)
        norms = head(hidden, lengths).norm(dim=-1)
        assert torch.allclose(norms, torch.ones(3)) is normalise


def test_a_head_leaves_the_names_and_the_logits_of_its_backbone():
    plain, model = backbone(), backbone()
    add_head(model, settings("regression"), seed=0)
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert added == {"head.proj.weight", "head.proj.bias"}
    tokens = torch.arange(8).view(2, 4)
    assert torch.equal(model(tokens), plain(tokens))
    assert not model.lm_head.weight.requires_grad


def test_the_seed_decides_a_heads_weights():
    def weights(seed):
        model = backbone()
        add_head(model, settings("regression"), seed=seed)
        return model.head.proj.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert 0.01 < weights(1).std() < 0.03


class Deep(EmptyHead):
    def __init__(self, settings, *, width):
        super().__init__(settings, width=width)
        self.norm = nn.LayerNorm(width)
        self.o_proj = nn.Linear(width, width)
        self.out = nn.Linear(width, 1, bias=False)


@pytest.mark.parametrize("name", [*HEADS, "own"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_parameter_of_a_head_has_one_rule(name, optimizer):
    model = backbone()
    made = HeadSettings(head="own") if name == "own" else settings(name)
    add_head(model, made, own=Deep if name == "own" else None, seed=0)
    groups = group_parameters(model)
    names = {id(p): n for n, p in model.named_parameters()}
    kinds = {names[id(p)]: kind for kind, members in groups.items() for p in members}
    for parameter in (n for n in names.values() if n.startswith("head.")):
        is_matrix = model.get_parameter(parameter).ndim == 2
        assert kinds[parameter] == ("embedding" if is_matrix else "vector")
    config = OptimizerConfig(optimizer=optimizer)
    assert make_optimizers(model, config, products=torch.float32)
    if name == "own":
        assert torch.equal(model.head.norm.weight, torch.ones(WIDTH))
        assert model.head.o_proj.bias.abs().max() == 0


def test_the_empty_head_passes_states_through():
    model = backbone()
    add_head(model, HeadSettings(head="own"), own=EmptyHead)
    hidden = torch.randn(1, 3, WIDTH)
    assert model.head(hidden, torch.tensor([3])) is hidden
    answer = model.head.answer(hidden[0], [0, 2])
    assert answer == {"hidden_states": [hidden[0, 0].tolist(), hidden[0, 2].tolist()]}
    with pytest.raises(ConfigError, match=r"EmptyHead has no loss to train with; write its method"):
        model.head.loss(hidden, hidden)


def test_settings_that_make_no_head():
    with pytest.raises(ConfigError, match="needs at least two labels, not 1; name them"):
        add_head(backbone(), settings("sequence_classification", labels=("a",)))
    with pytest.raises(ConfigError, match="labels has 'a' twice; write each once"):
        settings("sequence_classification", labels=("a", "b", "a"))
    with pytest.raises(ConfigError, match="is a class of your own; give it, as in"):
        add_head(backbone(), HeadSettings(head="own"))
    with pytest.raises(ConfigError, match="EmptyHead was given, but the head is regression; write"):
        add_head(backbone(), settings("regression"), own=EmptyHead)
