import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptlab.evaluation.token_figures import token_figures


@given(
    st.lists(st.lists(st.integers(-4, 4), min_size=4, max_size=4), min_size=1, max_size=5),
    st.integers(1, 6),
    st.data(),
)
def test_they_are_those_of_each_token_by_hand(rows, alternatives, data):
    targets = [data.draw(st.integers(0, 3)) for _ in rows]
    found = token_figures(
        torch.tensor(rows, dtype=torch.bfloat16),
        torch.tensor(targets),
        alternatives=alternatives,
    )
    assert len(found) == len(rows)
    for logits, target, figures in zip(rows, targets, found, strict=True):
        total = sum(math.exp(x) for x in logits)
        p = [math.exp(x) / total for x in logits]
        # Of equally likely ones, the lower id is first.
        order = sorted(range(4), key=lambda id: -logits[id])
        assert figures.nats == pytest.approx(-math.log(p[target]), rel=1e-5, abs=1e-6)
        assert figures.rank == order.index(target) + 1
        assert figures.entropy == pytest.approx(-sum(x * math.log(x) for x in p), rel=1e-5)
        assert [id for id, _ in figures.alternatives] == order[:alternatives]
        assert [x for _, x in figures.alternatives] == pytest.approx(
            [p[id] for id in order[:alternatives]], rel=1e-5
        )


def test_what_a_model_rules_out_has_no_entropy():
    (figures,) = token_figures(torch.tensor([[0.0, -math.inf, 0.0]]), torch.tensor([1]))
    assert figures.nats == math.inf
    assert figures.rank == 3
    assert figures.entropy == pytest.approx(math.log(2))
    assert figures.alternatives == ((0, 0.5), (2, 0.5), (1, 0.0))
