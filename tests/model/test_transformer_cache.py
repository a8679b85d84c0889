"""A cached target has the logits of the whole, and rows of a cache keep their sources."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.errors import ConfigError
from gptlab.model import KVCache
from model.naive_transformer import KINDS, SOURCES, filled, make


def remembering(model, sources, *, capacity=9, **options):
    source, lengths = filled(sources, ids=model.config.source_size)
    cache = KVCache(
        model.config.decoder,
        batch_size=len(sources),
        capacity=capacity,
        dtype=torch.float64,
        memory_capacity=options.get("memory_capacity", 6),
    )
    cache.remember(model.remember(source, lengths=lengths), lengths.tolist())
    return cache


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(8,), (1,) * 8, (3, 4, 1), (1, 5, 2)])
def test_a_cached_target_has_the_logits_of_the_whole(kind, sizes):
    model = make(**kind)
    target = torch.randint(11, (3, 8))
    source, lengths = filled(SOURCES, ids=model.config.source_size)
    expected = model(source, target, source_lengths=lengths)
    cache = remembering(model, SOURCES)
    parts = [model.decoder(chunk, cache=cache) for chunk in target.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, atol=1e-10, rtol=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), max_size=3),
    st.sampled_from(KINDS),
)
def test_rows_that_hold_different_numbers_of_tokens(chunks, kind):
    model = make(**kind)
    target = torch.randint(11, (3, 9))
    source, lengths = filled(SOURCES, ids=model.config.source_size)
    expected = model(source, target, source_lengths=lengths)
    cache, held = remembering(model, SOURCES, capacity=12), [0, 0, 0]
    for counts in chunks:
        if not any(counts):
            continue
        rows = [target[row, held[row] : held[row] + n].tolist() for row, n in enumerate(counts)]
        chunk, _ = filled(rows)
        if max(cache.lengths) + chunk.shape[1] > 9:
            break
        found = model.decoder(chunk, cache=cache, counts=counts)
        for row, count in enumerate(counts):
            want = expected[row, held[row] : held[row] + count]
            torch.testing.assert_close(found[row, :count], want, atol=1e-10, rtol=1e-10)
            held[row] += count
    assert cache.lengths == held


def test_keys_and_values_of_a_source_are_computed_once():
    model, calls = make(), []
    for block in model.decoder.blocks:
        block.cross_attention.kv_proj.register_forward_hook(lambda *_: calls.append(1))
    for layer in model.encoder.blocks:
        layer.register_forward_hook(lambda *_: calls.append("encoder"))
    cache = remembering(model, SOURCES)
    for _ in range(5):
        model.decoder(torch.ones(3, 1, dtype=torch.int64), cache=cache)
    assert calls == ["encoder", "encoder", 1, 1]
    model(torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64))
    assert calls[4:] == ["encoder", "encoder", 1, 1]


def step(model, cache, tokens):
    """Logits of one token a row, without moving the cache on."""
    before = list(cache.lengths)
    found = model.decoder(torch.tensor(tokens).unsqueeze(1), cache=cache)
    for row, length in enumerate(before):
        cache.shorten(row, length)
    return found[:, 0]


def test_rows_of_a_cache_move_with_their_sources():
    model = make(positions="learned", n_kv_heads=1)
    cache = remembering(model, SOURCES)
    model.decoder(torch.tensor([[4, 5], [6, 7], [8, 9]]), cache=cache, counts=[2, 1, 2])
    first = step(model, cache, [1, 2, 3])

    part = cache.rows(1, 3)
    assert (part.lengths, part.memory_lengths) == ([1, 2], [1, 3])
    torch.testing.assert_close(step(model, part, [2, 3]), first[1:])

    cache.copy_row(0, 2)
    assert (cache.lengths, cache.memory_lengths) == ([2, 1, 2], [6, 1, 6])
    copied = step(model, cache, [1, 2, 1])
    torch.testing.assert_close(copied, first[[0, 1, 0]])

    part.remember(model.remember(torch.tensor([[5, 5], [1, 2]])), [2, 2])
    assert cache.memory_lengths == [6, 2, 2]
    fresh = remembering(model, [SOURCES[0], [5, 5], [1, 2]])
    model.decoder(torch.tensor([[4, 5], [6, 7], [4, 5]]), cache=fresh, counts=[2, 1, 2])
    # What a row holds was computed beside its source, so that only that of row 0 is the same.
    torch.testing.assert_close(step(model, cache, [1, 2, 1])[0], step(model, fresh, [1, 2, 1])[0])

    order = [2, 0, 0, 1]
    expected = step(model, fresh, [3, 4, 5])
    fresh.take_rows(order)
    assert (fresh.lengths, fresh.memory_lengths) == ([2, 2, 2, 1], [2, 6, 6, 2])
    torch.testing.assert_close(step(model, fresh, [5, 3, 3, 4]), expected[order])


def test_an_erased_row_leaves_no_numbers_that_are_not_finite():
    model = make()
    cache = remembering(model, SOURCES)
    held = [part for layer in cache.layers(0) for part in (layer.keys, *layer.memory[:2])]
    for tensor in held:
        tensor[1] = float("nan")
    cache.erase(1)
    assert all(tensor.isfinite().all() for tensor in held)
    assert (cache.lengths[1], cache.memory_lengths[1]) == (0, 0)
    part = cache.rows(1, 2)
    part.remember(model.remember(torch.tensor([[1, 2]])), [2])
    alone = model(torch.tensor([[1, 2]]), torch.tensor([[7]]))
    torch.testing.assert_close(model.decoder(torch.tensor([[7]]), cache=part), alone)


def test_what_a_cache_has_no_room_for():
    model = make()
    with pytest.raises(ConfigError, match=r"^a source of 6 tokens exceeds .* of 5; give a shorter"):
        remembering(model, SOURCES, memory_capacity=5)
    cache = remembering(model, SOURCES)
    with pytest.raises(ConfigError, match=r"^1 sources came, but the cache has 3 rows; give one"):
        cache.remember(model.remember(torch.tensor([[1, 2]])), [2])
    with pytest.raises(ConfigError, match=r"^the memories are of \[1\] sources, but .* 3 rows; g"):
        cache.remember(model.remember(torch.tensor([[1, 2]])), [2, 2, 2])
    empty = KVCache(model.config.decoder, batch_size=1, dtype=torch.float64, memory_capacity=4)
    for nothing in (None, empty, KVCache(model.config.decoder, batch_size=1)):
        with pytest.raises(ConfigError, match="a decoder reads targets beside a source; call the"):
            model.decoder(torch.tensor([[1]]), cache=nothing)
