"""Hidden tokens: how many, which, behind what; and that seed, step and row alone decide it."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptlab.config.preparation import WindowConfig
from gptlab.data import DatasetWriter, TokenDataset, WindowSampler
from gptlab.data.batches import Batch
from gptlab.data.masking import MaskedSampler, Masking, masked_batches
from gptlab.data.mixture import MixedSampler
from gptlab.errors import TokenizerError
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.mask import with_mask

TOKENIZER = with_mask(BPETokenizer([]))
SPECIAL = set(TOKENIZER.special_tokens.values())
MASK = TOKENIZER.special_tokens["<MASK>"]


def dataset(folder, *texts, **windows):
    writer = DatasetWriter(folder, vocab_size=TOKENIZER.vocab_size)
    for text in texts:
        writer.write([*TOKENIZER.encode(text), TOKENIZER.eos_id])
        writer.end_document()
    writer.finish(
        tokenizer=TOKENIZER.fingerprint(),
        bytes=1,
        characters=1,
        windows=WindowConfig(**windows).model_dump(),
        pad_id=TOKENIZER.pad_id,
    )
    return TokenDataset(folder)


def restored(batch):
    """The windows as they were before anything was hidden."""
    tokens = batch.inputs.copy()
    np.put_along_axis(tokens, batch.places, batch.targets, axis=1)
    return tokens


@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=5),
    st.floats(0.01, 0.99),
    st.integers(0, 2**40),
    st.data(),
)
def test_a_row_by_itself_is_as_among_others_and_follows_the_rules(lengths, share, step, data):
    width = max(lengths) + data.draw(st.integers(0, 3))
    tokens = np.array(
        data.draw(
            st.lists(
                st.lists(st.integers(0, MASK), min_size=width, max_size=width),
                min_size=len(lengths),
                max_size=len(lengths),
            )
        )
    )
    weights = (np.arange(width) < np.array(lengths)[:, np.newaxis]).astype(np.float32)
    masking = Masking.of(TOKENIZER, share)
    batch = masking.hide(Batch(tokens, tokens, weights), range(len(lengths)), seed=3, step=step)
    assert (restored(batch) == tokens).all()
    assert batch.lengths.tolist() == lengths
    for row, length in enumerate(lengths):
        chosen = batch.places[row][batch.weights[row] > 0].tolist()
        text = [place for place in range(length) if tokens[row, place] not in SPECIAL]
        if not text:
            text = range(length)
        assert set(chosen) <= set(text)
        assert len(chosen) == len(set(chosen)) == max(1, round(share * len(text)))
        hidden = set(np.flatnonzero(batch.inputs[row] != tokens[row]).tolist())
        assert hidden <= set(chosen)
        assert not {batch.inputs[row, place] for place in hidden} & (SPECIAL - {MASK})
        short = tokens[row : row + 1, :length]
        alone = masking.hide(Batch(short, short), [row], seed=3, step=step)
        assert alone.lengths is None
        assert (alone.inputs[0] == batch.inputs[row, :length]).all()
        assert alone.places[0][alone.weights[0] > 0].tolist() == chosen


def test_of_the_chosen_eight_tenths_are_masked_and_one_tenth_is_replaced():
    tokens = np.random.default_rng(0).integers(0, 256, (400, 100))
    batch = Masking.of(TOKENIZER, 0.2).hide(Batch(tokens, tokens), range(400), seed=0, step=5)
    assert batch.weights.all()
    assert batch.places.shape == (400, 20)
    found = np.take_along_axis(batch.inputs, batch.places, axis=1)
    share_masked = (found == MASK).mean()
    share_same = (found == batch.targets).mean()
    # Four times the standard deviation of such a share of 8000; one in 256 replaces itself.
    assert share_masked == pytest.approx(0.8, abs=4 * (0.8 * 0.2 / 8000) ** 0.5)
    assert share_same == pytest.approx(0.1 + 0.1 / 256, abs=4 * (0.1 * 0.9 / 8000) ** 0.5)
    replaced = found[(found != MASK) & (found != batch.targets)]
    assert len(set(replaced.tolist())) > 200
    # Every place is as likely as any other.
    counts = np.bincount(batch.places.ravel(), minlength=100)
    assert abs(counts - 80).max() < 5 * (400 * 0.2 * 0.8) ** 0.5


@pytest.mark.parametrize("sources", [1, 2])
def test_ranks_together_read_what_one_reads_and_steps_differ(tmp_path, sources):
    parts = []
    for number in range(sources):
        data = dataset(tmp_path / str(number), "the cat sat on the mat. " * (9 + number))
        windows = WindowSampler(data, seq_len=12, batch_size=7, seed=4, shuffle=True)
        parts.append((windows, Fraction(1)))
    inner = parts[0][0] if sources == 1 else MixedSampler(parts)
    sampler = MaskedSampler(inner, Masking.of(TOKENIZER, 0.3), seed=4)
    assert sampler.steps_per_epoch == inner.steps_per_epoch
    assert sampler.row_counts == (7, 7)
    for step in (0, 9):
        whole = sampler.batch(step)
        assert (restored(whole) == inner.batch(step).inputs).all()
        for rank in range(3):
            part = sampler.batch(step, rank=rank, world_size=3)
            for mine, all_rows in zip(part, whole, strict=True):
                assert mine is all_rows is None or (mine == all_rows[rank::3]).all()
    other = MaskedSampler(inner, Masking.of(TOKENIZER, 0.3), seed=5).batch(0)
    places = [sampler.batch(0).places, sampler.batch(1).places, other.places]
    assert not (places[0] == places[1]).all()
    assert not (places[0] == places[2]).all()
    assert not (places[0][0] == places[0][1]).all()


def test_an_evaluation_hides_the_same_whatever_its_batches(tmp_path):
    stream = dataset(tmp_path / "stream", "a dog ran to the house. " * 5)
    texts = ["one two three four five", "six", "seven eight"]
    chunks = dataset(tmp_path / "chunks", *texts, mode="chunk", seq_len=8, short="pad")
    masking = Masking.of(TOKENIZER, 0.25)

    def rows(size):
        batches = masked_batches([stream, chunks], masking, seq_len=8, batch_size=size)
        for batch in batches:
            for row in range(len(batch.inputs)):
                real = batch.inputs.shape[1] if batch.lengths is None else batch.lengths[row]
                chosen = batch.weights[row] > 0
                yield (
                    batch.inputs[row, :real].tolist(),
                    batch.places[row][chosen].tolist(),
                    batch.targets[row][chosen].tolist(),
                )

    alone = list(rows(1))
    assert list(rows(3)) == alone
    assert list(rows(100)) == alone
    # Whole windows, the rest of the stream, and the chunks, of which the last token is no input.
    assert sum(len(tokens) for tokens, _, _ in alone) == len(stream) - 1 + len(chunks) - 3


def test_a_tokenizer_without_a_mask_is_refused():
    with pytest.raises(TokenizerError, match="no mask token such as <MASK>"):
        Masking.of(BPETokenizer([]), 0.15)
