import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig, SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation.engine import Row, continue_rows
from gptlab.generation.sampling import choose
from gptlab.model import GPT

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


def rows_of(prompts, seed=0):
    return [
        Row(prompt, torch.Generator().manual_seed(seed + number))
        for number, prompt in enumerate(prompts)
    ]


def engine_ids(model, prompts, config, *, seed=0, rows=None):
    rows = rows or rows_of(prompts, seed)
    new = [[] for _ in rows]
    for index, token in continue_rows(model, rows, config, eos_id=EOS):
        new[index].append(token)
    return new


@torch.no_grad()
def slow_ids(model, prompt, config, *, seed=0):
    """Everything anew at each token: the context is the newer half once it overflows."""
    generator = torch.Generator().manual_seed(seed)
    seq_len, ids, new = model.config.seq_len, list(prompt), []
    context = ids[-seq_len:]
    for _ in range(config.max_new_tokens):
        logits = model(torch.tensor([context]))[:, -1]
        uniform = torch.rand(1, dtype=torch.float64, generator=generator)
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


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_batch_equals_each_row_recomputed_alone(positions):
    model = lively(positions=positions, n_kv_heads=2)

    @settings(max_examples=8, deadline=None)
    @given(prompts=st.lists(prompts_of_ids, min_size=1, max_size=4), config=sampling)
    def check(prompts, config):
        expected = [slow_ids(model, p, config, seed=n) for n, p in enumerate(prompts)]
        assert engine_ids(model, prompts, config) == expected

    check()


@pytest.mark.parametrize("seq_len", [1, 2, 3, 5])
def test_sliding_in_a_short_context(seq_len):
    model = lively(seq_len=seq_len)
    config = SamplingConfig(max_new_tokens=15, ignore_eos=True)
    prompts = [[1], [2, 5, 4], [7] * 9]
    expected = [slow_ids(model, p, config, seed=n) for n, p in enumerate(prompts)]
    assert engine_ids(model, prompts, config) == expected
    assert len({*expected[0]}) > 1


def test_each_row_keeps_to_its_own_generator_in_any_order():
    model = lively()
    config = SamplingConfig(max_new_tokens=12, ignore_eos=True)
    rows = rows_of([[1, 2, 3], [4], [5, 6]])
    forward = engine_ids(model, None, config, rows=rows)
    rows = rows_of([[1, 2, 3], [4], [5, 6]])
    backward = engine_ids(model, None, config, rows=rows[::-1])
    assert forward == backward[::-1]


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
    rows = rows_of([[1], [2]])
    config = SamplingConfig(max_new_tokens=6, ignore_eos=True)
    expected = engine_ids(model, [[1], [2]], config)
    new = [[], []]
    for index, token in continue_rows(model, rows, config, eos_id=EOS):
        new[index].append(token)
        rows[index].done = index == 0 and len(new[0]) == 2
    assert new == [expected[0][:2], expected[1]]


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
    steps = continue_rows(lively(), rows_of([[1]]), SamplingConfig(max_new_tokens=3), eos_id=None)
    next(steps)
    assert not torch.is_inference_mode_enabled()


def test_rows_of_one_length_need_no_mask_even_when_some_are_done(monkeypatch):
    masks = []
    plain = GPT._context

    def watched(self, positions, cache, documents):
        context = plain(self, positions, cache, documents)
        masks.append(context.mask_BTS)
        return context

    monkeypatch.setattr(GPT, "_context", watched)
    rows = rows_of([[1, 2], [4, 5], [1, 5]])
    rows[1].done = True
    config = SamplingConfig(max_new_tokens=5, ignore_eos=True)
    new = engine_ids(lively(), None, config, rows=rows)
    assert [len(ids) for ids in new] == [5, 0, 5]
    assert masks == [None] * 5
