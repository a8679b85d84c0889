import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig, SamplingConfig
from gptlab.errors import ConfigError, GenerationError
from gptlab.generation.batch import Batch
from gptlab.generation.engine import continue_rows
from gptlab.generation.rows import Row
from gptlab.generation.sampling import choose
from gptlab.model import GPT
from gptlab.model.multi_head import Attention

VOCAB, EOS = 17, 3
POSITIONS = ["rope", "sinusoidal", "learned", "none"]


def lively(**changes):
    """A model whose tokens depend on what it has read, as those of small weights do not."""
    shape = {"vocab_size": VOCAB, "seq_len": 8, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
    model = GPT(ModelConfig(**{**shape, **changes}), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(12 if parameter.dim() > 1 else 1)
    return model


def rows_of(prompts, config, seed=0):
    return [
        Row(prompt, config, seed=seed + number, eos_id=EOS) for number, prompt in enumerate(prompts)
    ]


def engine_ids(model, prompts, config, *, seed=0):
    rows = rows_of(prompts, config, seed)
    shown = {id(row): [] for row in rows}
    for row, token in continue_rows(model, rows):
        shown[id(row)].append(token.id)
    assert [row.new_ids for row in rows] == list(shown.values())
    return list(shown.values())


@torch.no_grad()
def slow_ids(model, prompt, config, *, seed=0):
    """Everything anew at each token: the context is the newer half once it overflows."""
    uniforms = random.Random(seed)
    seq_len, ids, new = model.config.seq_len, list(prompt), []
    context = ids[-seq_len:]
    for _ in range(config.max_new_tokens):
        logits = model(torch.tensor([context]))[:, -1]
        uniform = torch.tensor([uniforms.random()], dtype=torch.float64)
        token = choose(logits, config, uniform, contexts=[ids], new=[len(new)]).item()
        if token == EOS and not config.ignore_eos:
            break
        new.append(token)
        ids.append(token)
        context.append(token)
        if len(context) > seq_len:
            context = context[-max(1, seq_len // 2) :]
    return new


prompts_of_ids = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12)
sampling = st.builds(
    SamplingConfig,
    max_new_tokens=st.integers(1, 14),
    temperature=st.sampled_from([0, 0.7, 1.5]),
    top_k=st.sampled_from([None, 5]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    ignore_eos=st.booleans(),
)


shapes = st.fixed_dictionaries(
    {
        "positions": st.sampled_from(POSITIONS),
        "n_kv_heads": st.sampled_from([1, 2, 4]),
        "qk_norm": st.booleans(),
        "tie_embeddings": st.booleans(),
        "window": st.sampled_from([None, 1, 3, 6]),
        "logit_soft_cap": st.sampled_from([None, 2.0]),
        "activation": st.sampled_from(["gelu", "swiglu", "relu2"]),
        "norm": st.sampled_from(["layernorm", "rmsnorm"]),
        "bias": st.booleans(),
    }
)


@settings(max_examples=40, deadline=None)
@given(
    shape=shapes,
    requests=st.lists(st.tuples(prompts_of_ids, sampling), min_size=1, max_size=4),
)
def test_a_batch_equals_each_row_recomputed_alone(shape, requests):
    model = lively(**shape)
    rows = [
        Row(prompt, config, seed=seed, eos_id=EOS) for seed, (prompt, config) in enumerate(requests)
    ]
    for _ in continue_rows(model, rows):
        pass
    expected = [slow_ids(model, *request, seed=seed) for seed, request in enumerate(requests)]
    assert [row.new_ids for row in rows] == expected


@settings(max_examples=15, deadline=None)
@given(
    requests=st.lists(st.tuples(prompts_of_ids, sampling), min_size=1, max_size=7),
    arrivals=st.lists(st.integers(0, 12), min_size=7, max_size=7),
)
def test_rows_may_come_at_any_time(requests, arrivals):
    model = lively()
    batch = Batch(model, slots=len(requests), capacity=model.config.seq_len)
    rows = [
        Row(prompt, config, seed=seed, eos_id=EOS) for seed, (prompt, config) in enumerate(requests)
    ]
    waiting = sorted(zip(arrivals, rows, strict=False), key=lambda pair: pair[0])
    for step in range(100):
        coming = [row for arrival, row in waiting if arrival == step]
        if coming:
            batch.admit(coming)
        batch.draw()
        batch.advance()
    assert not batch.rows
    expected = [slow_ids(model, *request, seed=seed) for seed, request in enumerate(requests)]
    assert [row.new_ids for row in rows] == expected


@pytest.mark.parametrize("positions", ["rope", "none"])
def test_truncating_the_cache_of_one_layer_is_sliding(positions):
    model = lively(positions=positions, num_layers=1)
    config = SamplingConfig(max_new_tokens=30, ignore_eos=True)
    prompts = [[1], [2, 5, 4], [7] * 9]
    expected = engine_ids(model, prompts, config)
    assert engine_ids(model, prompts, config.replace(overflow="truncate")) == expected


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_absolute_positions_cannot_be_truncated(positions):
    config = SamplingConfig(max_new_tokens=8, overflow="truncate")
    with pytest.raises(ConfigError, match=f"positions are {positions}, which can't move"):
        engine_ids(lively(positions=positions), [[1]], config)
    assert engine_ids(lively(positions=positions), [[1]], config.replace(max_new_tokens=7))


def test_a_prompt_that_comes_twice_is_read_once():
    model = lively()
    config = SamplingConfig(max_new_tokens=7, ignore_eos=True)
    prompts = [[1, 2], [4], [1, 2], [1, 2]]
    expected = [slow_ids(model, prompt, config, seed=n) for n, prompt in enumerate(prompts)]
    read = []
    hook = model.norm.register_forward_hook(lambda _, __, output: read.append(len(output)))
    assert engine_ids(model, prompts, config) == expected
    hook.remove()
    assert read == [2] + [4] * 6


def test_log_probabilities_are_those_of_the_model():
    model = lively()
    config = SamplingConfig(max_new_tokens=6, temperature=0.5, top_logprobs=3, ignore_eos=True)
    rows = rows_of([[1, 2], [5]], config)
    for row, token in continue_rows(model, rows):
        logprobs = model(torch.tensor([row.ids[:-1]]))[0, -1].log_softmax(-1)
        assert token.logprob == pytest.approx(logprobs[token.id].item(), abs=1e-5)
        expected = logprobs.topk(3)
        assert [pair[0] for pair in token.top] == expected.indices.tolist()
        assert [pair[1] for pair in token.top] == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_a_model_of_broken_numbers_is_named():
    model = lively()
    with torch.no_grad():
        model.lm_head.weight[0] = math.nan
    with pytest.raises(GenerationError, match=r"largest of the model's logits is nan"):
        engine_ids(model, [[1]], SamplingConfig(max_new_tokens=2))


@pytest.mark.parametrize("seq_len", [1, 2, 3, 5])
def test_sliding_in_a_short_context(seq_len):
    model = lively(seq_len=seq_len)
    config = SamplingConfig(max_new_tokens=15, ignore_eos=True)
    prompts = [[1], [2, 5, 4], [7] * 9]
    expected = [slow_ids(model, p, config, seed=n) for n, p in enumerate(prompts)]
    assert engine_ids(model, prompts, config) == expected
    assert len({*expected[0]}) > 1


def test_each_row_keeps_to_its_own_randomness_in_any_order():
    model = lively()
    config = SamplingConfig(max_new_tokens=12, ignore_eos=True)
    forward = rows_of([[1, 2, 3], [4], [5, 6]], config)
    backward = rows_of([[1, 2, 3], [4], [5, 6]], config)
    for rows in (forward, backward[::-1]):
        for _ in continue_rows(model, rows):
            pass
    assert [row.ids for row in forward] == [row.ids for row in backward]


def test_the_end_of_sequence_ends_a_row_and_is_not_yielded():
    model = lively()
    config = SamplingConfig(max_new_tokens=60, ignore_eos=True)
    prompts = [[1], [2], [4, 5]]
    endless = engine_ids(model, prompts, config)
    assert all(len(new) == 60 and EOS in new for new in endless)
    ended = engine_ids(model, prompts, config.replace(ignore_eos=False))
    assert ended == [new[: new.index(EOS)] for new in endless]
    assert len({len(new) for new in ended}) > 1


def test_whoever_reads_may_end_a_row():
    model = lively()
    config = SamplingConfig(max_new_tokens=6, ignore_eos=True)
    expected = engine_ids(model, [[1], [2]], config)
    rows = rows_of([[1], [2]], config)
    for _ in continue_rows(model, rows):
        if rows[0].new == 2:
            rows[0].ending = "stop"
    assert [row.new_ids for row in rows] == [expected[0][:2], expected[1]]


def test_ended_rows_are_read_no_further():
    model, read = lively(), []
    model.norm.register_forward_hook(lambda _, __, output: read.append(len(output)))
    rows = [
        Row([number], SamplingConfig(max_new_tokens=new, ignore_eos=True))
        for number, new in enumerate([2, 6, 4])
    ]
    for _ in continue_rows(model, rows):
        pass
    assert read == [3, 3, 2, 2, 1, 1]


def test_overflow_may_be_an_error():
    model = lively()
    config = SamplingConfig(max_new_tokens=4, overflow="error", ignore_eos=True)
    assert [len(new) for new in engine_ids(model, [[1] * 4], config)] == [4]
    with pytest.raises(ConfigError, match=r"5 prompt tokens and 4 new ones exceed.*seq_len of 8"):
        engine_ids(model, [[1], [1] * 5], config)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt has no tokens"),
        ([1, VOCAB], "ids outside the model's vocabulary of 17"),
        ([-1], "ids outside the model's vocabulary of 17"),
    ],
)
def test_prompts_that_cannot_be_read(prompt, message):
    with pytest.raises(ConfigError, match=message):
        engine_ids(lively(), [[1], prompt], SamplingConfig(max_new_tokens=2))


def test_reading_goes_on_outside_of_inference_mode():
    steps = continue_rows(lively(), rows_of([[1]], SamplingConfig(max_new_tokens=3)))
    next(steps)
    assert not torch.is_inference_mode_enabled()


def test_rows_of_one_length_need_no_mask(monkeypatch):
    masks = []
    plain = Attention.forward

    def watched(self, x, context, cache=None):
        masks.append(context.mask_BTS)
        return plain(self, x, context, cache)

    monkeypatch.setattr(Attention, "forward", watched)
    config = SamplingConfig(max_new_tokens=5, ignore_eos=True)
    new = engine_ids(lively(), [[1, 2], [4, 5], [1, 5]], config)
    assert [len(ids) for ids in new] == [5, 5, 5]
    assert masks == [None] * 10


def test_a_constraint_may_refuse_nearly_all():
    class OnlyLast:
        is_over = False

        def allowed(self):
            return torch.ones(2000, dtype=torch.bool)

        def permits(self, token):
            return token == 1999

        def advance(self, token):
            pass

    model = lively(vocab_size=2000)
    row = Row([1], SamplingConfig(max_new_tokens=2), seed=0, constraint=OnlyLast())
    for _ in continue_rows(model, [row]):
        pass
    assert row.new_ids == [1999, 1999]


def test_rows_that_have_ended_before_get_nothing():
    row = Row([1], SamplingConfig(max_new_tokens=2))
    row.ending = "cancelled"
    assert list(continue_rows(lively(), [row])) == []
