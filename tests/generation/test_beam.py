"""Beam search against an enumeration of all continuations, transformers' and greedy decoding."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from gptlab import GPT, Generator, ModelConfig, SamplingConfig, train_bpe
from gptlab.errors import ConfigError, GenerationError
from gptlab.generation.beam import Beam, beam_search

SEQ_LEN = 16


def lively(vocab_size, **changes):
    """A model whose tokens depend on what it has read, as those of small weights do not."""
    shape = {"seq_len": SEQ_LEN, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
    model = GPT(ModelConfig(**{"vocab_size": vocab_size, **shape, **changes}), seed=0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
    return model


@torch.no_grad()
def log_probability(model, prompt, new):
    logits = model(torch.tensor([[*prompt, *new]]))[0].double().log_softmax(-1)
    return sum(float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(new))


def all_continuations(model, prompt, *, length, eos_id, length_penalty):
    """Every one there is, best first."""
    found = []
    for new in itertools.product(range(model.config.vocab_size), repeat=length):
        if eos_id in new:
            new = new[: new.index(eos_id) + 1]
        found.append(new)
    beams = []
    for new in set(found):
        total = log_probability(model, prompt, new)
        beams.append(Beam(new, total, total / len(new) ** length_penalty))
    return sorted(beams, key=lambda beam: -beam.score)


def assert_same(ours, expected, tolerance=1e-4):
    assert [beam.ids for beam in ours] == [beam.ids for beam in expected]
    for one, other in zip(ours, expected, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, abs=tolerance)
        assert one.score == pytest.approx(other.score, abs=tolerance)


@pytest.mark.parametrize("eos_id", [None, 1])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5, 2.0])
@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_enough_beams_find_the_best_of_all(eos_id, length_penalty, positions):
    model, prompt = lively(3, positions=positions), [0, 2]
    expected = all_continuations(
        model, prompt, length=4, eos_id=eos_id, length_penalty=length_penalty
    )
    ours = beam_search(
        model,
        prompt,
        beams=len(expected),
        max_new_tokens=4,
        eos_id=eos_id,
        length_penalty=length_penalty,
    )
    assert_same(ours, expected)
    more = beam_search(
        model,
        prompt,
        beams=200,
        max_new_tokens=4,
        eos_id=eos_id,
        length_penalty=length_penalty,
    )
    assert more == ours


def gpt2_pair():
    """A random GPT-2 of transformers, and the same weights in a GPT."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=13,
        n_positions=SEQ_LEN,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.4)
    shape = {"vocab_size": 13, "seq_len": SEQ_LEN, "embed_dim": 16, "num_layers": 1, "n_heads": 2}
    ours = GPT(
        ModelConfig(
            **shape,
            positions="learned",
            activation="gelu_tanh",
            bias=True,
            qk_norm=False,
            tie_embeddings=True,
        )
    )
    parts = theirs.transformer
    names = {
        "attention_norm": "ln_1",
        "attention.qkv_proj": "attn.c_attn",
        "attention.o_proj": "attn.c_proj",
        "feed_forward_norm": "ln_2",
        "feed_forward.up_proj": "mlp.c_fc",
        "feed_forward.down_proj": "mlp.c_proj",
    }
    weights = {
        "embedding.weight": parts.wte.weight,
        "position_embedding.weight": parts.wpe.weight,
        "norm.weight": parts.ln_f.weight,
        "norm.bias": parts.ln_f.bias,
    }
    for our_name, their_name in names.items():
        part = parts.h[0].get_submodule(their_name)
        # GPT-2 keeps its matrices as inputs by outputs.
        weights[f"blocks.0.{our_name}.weight"] = part.weight.t()
        weights[f"blocks.0.{our_name}.bias"] = part.bias
    ours.load_state_dict(weights)
    return theirs.double(), ours.double().eval()


THEIRS, OURS = gpt2_pair()


def transformers_beams(prompt, *, beams, length, eos_id, length_penalty):
    """Ids and scores of transformers' beams."""
    found = THEIRS.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=length,
        eos_token_id=eos_id,
        pad_token_id=12,
        length_penalty=length_penalty,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    rows = []
    for row in found.sequences[:, len(prompt) :].tolist():
        end = row.index(eos_id) + 1 if eos_id in row else len(row)
        rows.append(tuple(row[:end]))
    return rows, found.sequences_scores.tolist()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
    st.integers(2, 6),
    st.integers(1, 10),
    st.sampled_from([None, *range(12)]),
    st.sampled_from([0.0, 1.0, 2.0, -1.0]),
)
def test_beams_are_those_of_transformers(prompt, beams, length, eos_id, length_penalty):
    expected = transformers_beams(
        prompt, beams=beams, length=length, eos_id=eos_id, length_penalty=length_penalty
    )
    ours = beam_search(
        OURS,
        prompt,
        beams=beams,
        max_new_tokens=length,
        eos_id=eos_id,
        length_penalty=length_penalty,
    )
    assert [beam.ids for beam in ours] == expected[0]
    assert [beam.score for beam in ours] == pytest.approx(expected[1], abs=1e-4)
    for beam in ours:
        total = log_probability(OURS, prompt, beam.ids)
        assert beam.log_probability == pytest.approx(total, abs=1e-8)
        assert beam.score == beam.log_probability / len(beam.ids) ** length_penalty


@torch.no_grad()
def greedy_slowly(model, prompt, length, eos_id):
    new = []
    while len(new) < length and eos_id not in new:
        new.append(model(torch.tensor([[*prompt, *new]]))[0, -1].argmax().item())
    return tuple(new)


@pytest.mark.parametrize("eos_id", [None, *range(13)])
def test_one_beam_is_greedy(eos_id):
    for prompt in ([1], [7, 2, 2]):
        ours = beam_search(OURS, prompt, beams=1, max_new_tokens=10, eos_id=eos_id)
        assert [beam.ids for beam in ours] == [greedy_slowly(OURS, prompt, 10, eos_id)]


def test_one_beam_is_the_generator_at_temperature_0():
    tokenizer = train_bpe(texts=["the cat sat on the mat " * 20], vocab_size=270)
    model = lively(270)
    config = SamplingConfig(temperature=0, max_new_tokens=9, ignore_eos=True)
    expected = Generator(model, tokenizer).generate_ids([[5, 6]], config)[0]
    ours = beam_search(model, [5, 6], beams=1, max_new_tokens=9, eos_id=None)
    assert list(ours[0].ids) == expected


@torch.no_grad()
def test_of_equal_tokens_the_lowest_come_first():
    """As in greedy text; in 16 bits many are equal, and to a model of zeros all."""
    model = lively(10)
    for parameter in model.parameters():
        parameter.zero_()
    for beams in (1, 4):
        found = beam_search(model, [5], beams=beams, max_new_tokens=1, eos_id=None)
        assert [beam.ids for beam in found] == [(token,) for token in range(beams)]


def test_more_beams_find_likelier_texts_than_greedy():
    def best(beams):
        found = beam_search(OURS, [1], beams=beams, max_new_tokens=10, eos_id=None)
        return found[0].log_probability

    assert best(1) < best(20)


def test_the_same_each_time_in_whatever_mode_the_model_is():
    model = lively(13, dropout=0.5)
    arguments = {"beams": 3, "max_new_tokens": 6, "eos_id": 4}
    once = beam_search(model, [1, 2], **arguments)
    model.train()
    assert beam_search(model, [1, 2], **arguments) == once
    assert model.training


def test_a_full_context_is_just_not_too_long():
    found = beam_search(OURS, [1] * 6, beams=2, max_new_tokens=10, eos_id=None)
    assert [len(beam.ids) for beam in found] == [10, 10]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"prompt": [1] * 7},
            "7 prompt tokens and 10 new ones exceed the model's seq_len of 16; ask for fewer, or",
        ),
        ({"prompt": []}, "the prompt has no tokens; give it some text"),
        ({"prompt": [13]}, "ids outside the model's vocabulary of 13; use the model's own"),
        ({"prompt": [-1]}, "ids outside the model's vocabulary of 13"),
        ({"beams": 0}, "beams is 0; choose 1 or more"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0; choose 1 or more"),
        ({"length_penalty": math.nan}, "length_penalty is nan; choose one from -10 to 10"),
        ({"length_penalty": 11.0}, "length_penalty is 11.0; choose one from -10 to 10"),
    ],
)
def test_what_cannot_be_searched_is_one_line(changes, message):
    arguments = {"prompt": [1], "beams": 2, "max_new_tokens": 10, "eos_id": None, **changes}
    with pytest.raises(ConfigError, match=message) as raised:
        beam_search(OURS, **arguments)
    assert "\n" not in str(raised.value)


def test_a_broken_model_is_told():
    model = lively(13)
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    with pytest.raises(
        GenerationError, match="the model's logits are NaN; load a sound checkpoint"
    ):
        beam_search(model, [1], beams=2, max_new_tokens=3, eos_id=None)
