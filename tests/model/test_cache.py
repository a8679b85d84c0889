import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig
from gptlab.errors import BackendError, ConfigError
from gptlab.model import GPT, KVCache, attend, attention
from gptlab.model.positions import rotary_frequencies

POSITIONS = ["rope", "sinusoidal", "learned", "none"]
SEQ_LEN = 12


def tiny(**changes):
    shape = {"vocab_size": 13, "seq_len": SEQ_LEN, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
    return GPT(ModelConfig(**{**shape, **changes}), seed=0).double().eval()


def random_tokens(rows, length, seed=0):
    return torch.randint(13, (rows, length), generator=torch.Generator().manual_seed(seed))


def empty_cache(model, rows, capacity=None):
    return KVCache(model.config, batch_size=rows, capacity=capacity, dtype=torch.float64)


chunkings = st.lists(st.integers(1, SEQ_LEN), min_size=1, max_size=SEQ_LEN).filter(
    lambda chunks: sum(chunks) <= SEQ_LEN
)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
@torch.no_grad()
def test_any_chunking_equals_the_full_forward(positions, n_kv_heads):
    models = [
        tiny(positions=positions, n_kv_heads=n_kv_heads, qk_norm=qk_norm, norm=norm)
        for qk_norm in (False, True)
        for norm in ("layernorm", "rmsnorm")
    ]
    models.append(
        tiny(positions=positions, n_kv_heads=n_kv_heads, head_width=6, qkv_bias=True)
        if positions != "rope"
        else tiny(
            n_kv_heads=n_kv_heads,
            head_width=8,
            rotary_share=0.5,
            parallel_residual=True,
            rope_scaling="yarn",
            rope_factor=2.0,
            rope_original_len=8,
        )
    )

    @settings(max_examples=10, deadline=None)
    @given(chunks=chunkings, model=st.sampled_from(models))
    def check(chunks, model):
        tokens = random_tokens(2, sum(chunks))
        cache = empty_cache(model, 2, capacity=sum(chunks))
        parts = [model(part, cache=cache) for part in tokens.split(chunks, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), model(tokens))
        assert cache.lengths == [sum(chunks)] * 2

    check()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("backend", ["reference", "sdpa", "blocked"])
@torch.no_grad()
def test_rows_of_different_lengths_equal_their_full_forwards(positions, backend):
    model = tiny(positions=positions, attention=backend, n_kv_heads=2)

    @settings(max_examples=15, deadline=None)
    @given(steps=st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=4))
    def check(steps):
        tokens = random_tokens(3, SEQ_LEN)
        expected = model(tokens)
        cache = empty_cache(model, 3)
        for counts in steps:
            starts, width = list(cache.lengths), max(1, *counts)
            if max(starts) + width > SEQ_LEN:
                break
            padded = torch.full((3, width), 7)
            for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
                padded[row, :count] = tokens[row, start : start + count]
            logits = model(padded, cache=cache, counts=counts)
            for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
                torch.testing.assert_close(
                    logits[row, :count], expected[row, start : start + count]
                )

    check()


@torch.no_grad()
def test_flash_serves_where_all_rows_are_alike_and_says_so_where_not(monkeypatch):
    def without_mask(q, k, v, *, causal, window, lengths_B, dropout):
        assert lengths_B is None
        return attend(q, k, v, backend="reference", causal=causal, window=window, dropout=dropout)

    monkeypatch.setattr(attention, "flash_attention", without_mask)
    model = tiny(attention="flash")
    tokens = random_tokens(2, 6)
    cache = empty_cache(model, 2)
    parts = [model(part, cache=cache) for part in tokens.split([3, 2, 1], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), tiny()(tokens))
    cache.shorten(0, 0)
    with pytest.raises(
        BackendError, match=r"rows of different lengths need one; write --attention"
    ):
        model(tokens[:, :1], cache=cache)


@torch.no_grad()
def test_some_rows_are_a_part_of_the_whole():
    model = tiny()
    tokens = random_tokens(3, 6)
    cache = empty_cache(model, 3)
    model(tokens[:, :5], cache=cache)
    view = cache.rows(1, 3)
    assert len(view) == 2
    view.shorten(0, 0)
    model(tokens[1:2, 3:5], cache=view.rows(0, 1))
    assert cache.lengths == [5, 2, 5]
    logits = model(tokens[:, 5:], cache=cache)[:, 0]
    full = model(tokens)[:, -1]
    torch.testing.assert_close(logits[0], full[0])
    torch.testing.assert_close(logits[2], full[2])
    torch.testing.assert_close(logits[1], model(tokens[1:2, 3:])[0, -1])


@torch.no_grad()
def test_rows_are_copied_and_reordered():
    model = tiny()
    tokens = random_tokens(3, 6)
    cache = empty_cache(model, 3)
    model(tokens[:, :5], cache=cache, counts=[5, 3, 4])
    cache.copy_row(1, 0)
    assert cache.lengths == [3, 3, 4]
    cache.take_rows([2, 0, 0])
    assert cache.lengths == [4, 3, 3]
    following = torch.stack((tokens[2, 4], tokens[1, 3], tokens[1, 3])).unsqueeze(1)
    logits = model(following, cache=cache)[:, 0]
    full = model(tokens)
    torch.testing.assert_close(logits, torch.stack((full[2, 4], full[1, 3], full[1, 3])))


@pytest.mark.parametrize(
    "settings",
    [
        {"positions": "rope"},
        {"positions": "none"},
        {"rotary_share": 0.5, "rope_scaling": "linear", "rope_factor": 3.0},
        {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 32},
    ],
)
@torch.no_grad()
def test_dropping_the_oldest_of_one_layer_equals_reading_the_rest(settings):
    # With more layers, what was kept tells of what was dropped.
    model = tiny(num_layers=1, **settings)
    tokens = random_tokens(2, 9)
    cache = empty_cache(model, 2)
    model(tokens[:, :8], cache=cache)
    turns = rotary_frequencies(model.config) if model.config.positions == "rope" else None
    cache.drop_oldest(0, 5, turns=turns)
    assert cache.lengths == [3, 8]
    logits = model(tokens[:, 8:], cache=cache)[:, 0]
    torch.testing.assert_close(logits[0], model(tokens[:1, 5:])[0, -1])
    torch.testing.assert_close(logits[1], model(tokens[1:])[0, -1])


@torch.no_grad()
def test_a_forgotten_row_starts_afresh():
    model = tiny()
    tokens = random_tokens(2, 4)
    cache = empty_cache(model, 2)
    model(tokens, cache=cache)
    cache.shorten(0, 0)
    assert cache.lengths == [0, 4]
    logits = model(tokens, cache=cache)
    torch.testing.assert_close(logits[0], model(tokens)[0])


@pytest.mark.parametrize(
    ("held", "new", "capacity", "message"),
    [
        (0, 13, None, "13 tokens exceed the model's seq_len of 12"),
        (10, 3, None, "13 tokens exceed the model's seq_len of 12"),
        (4, 3, 6, "3 more tokens after 4 exceed the cache's capacity of 6"),
    ],
)
def test_what_does_not_fit_is_one_line(held, new, capacity, message):
    model = tiny()
    cache = empty_cache(model, 1, capacity=capacity)
    if held:
        model(random_tokens(1, held), cache=cache)
    with pytest.raises(ConfigError, match=message) as raised:
        model(random_tokens(1, new), cache=cache)
    assert "\n" not in str(raised.value)
    assert cache.lengths == [held]


def test_too_many_tokens_without_a_cache():
    with pytest.raises(ConfigError, match="13 tokens exceed the model's seq_len of 12; give fewer"):
        tiny()(random_tokens(1, 13))


@pytest.mark.parametrize(
    ("rows", "counts", "message"),
    [
        (2, [3, 1], r"counts are \[3, 1\], but 2 tokens a row came"),
        (2, [1, -1], r"counts are \[1, -1\], but 2 tokens a row came"),
        (2, [1], r"counts are \[1\], but 2 rows came"),
        (1, None, "1 rows came, but the cache has 2"),
    ],
)
def test_counts_and_rows_that_do_not_fit(rows, counts, message):
    model = tiny()
    cache = empty_cache(model, 2)
    with pytest.raises(ConfigError, match=message):
        model(random_tokens(rows, 2), cache=cache, counts=counts)
    assert cache.lengths == [0, 0]


def test_an_empty_capacity_is_not_the_default():
    model = tiny()
    with pytest.raises(ConfigError, match="capacity of 0"):
        model(random_tokens(1, 1), cache=empty_cache(model, 1, capacity=0))
