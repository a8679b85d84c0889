import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import EOS, VOCAB, lively, prompts_of_ids, sampling, shapes

from gptlab.config import ModelConfig, SamplingConfig
from gptlab.errors import ConfigError, GenerationError
from gptlab.generation import Generator, LookupDrafter, ModelDrafter, speculative
from gptlab.generation.drafts import Proposal
from gptlab.generation.engine import continue_rows
from gptlab.generation.rows import Row
from gptlab.generation.sampling import probabilities, process
from gptlab.generation.speculative import Acceptance, Speculator, accept_or_redraw
from gptlab.model import GPT
from gptlab.tokenizer import train_bpe

# Without a penalty a random model soon repeats one token, whatever it has read.
GREEDY = SamplingConfig(max_new_tokens=24, temperature=0, frequency_penalty=0.7, ignore_eos=True)


class Scripted:
    """Proposes what a text says, with a wrong token at some places."""

    vocab_size = None

    def __init__(self, text, wrong=()):
        self.text, self.wrong = text, wrong

    def propose(self, row, count):
        first = len(row.ids)
        return [
            Proposal((self.text[place] + (place in self.wrong)) % VOCAB)
            for place in range(first, min(first + count, len(self.text)))
        ]


class Noisy(ModelDrafter):
    """A model that is sure of other things than the one that checks."""

    def __init__(self, **shape):
        model = lively(**shape)
        with torch.no_grad():
            model.norm.weight.neg_()
        super().__init__(model)


def ids_of(pairs, rows):
    shown = {id(row): [] for row in rows}
    for row, token in pairs:
        shown[id(row)].append(token.id)
    assert [row.new_ids for row in rows] == list(shown.values())
    return list(shown.values())


def rows_of(requests):
    return [
        Row(prompt, config, seed=seed, eos_id=EOS) for seed, (prompt, config) in enumerate(requests)
    ]


def plain(model, *requests):
    rows = rows_of(requests)
    return ids_of(continue_rows(model, rows), rows)


def drafted(speculator, *requests):
    rows = rows_of(requests)
    return ids_of(speculator.continue_rows(rows), rows)


def drafter_of(kind, model, shape):
    if kind == "lookup":
        return LookupDrafter(length=2)
    if kind == "itself":
        return ModelDrafter(model)
    return Noisy(**(shape | {"seq_len": 8 if kind == "noisy" else 3}))


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes,
    seq_len=st.sampled_from([1, 2, 3, 8, 64]),
    requests=st.lists(st.tuples(prompts_of_ids, sampling), min_size=1, max_size=3),
    kind=st.sampled_from(["lookup", "itself", "noisy", "short"]),
    length=st.integers(1, 6),
    penalty=st.sampled_from([0.0, 0.7, 1.5]),
)
def test_greedy_text_is_that_of_plain_decoding(shape, seq_len, requests, kind, length, penalty):
    model = lively(**shape, seq_len=seq_len)
    greedy = {"temperature": 0, "frequency_penalty": penalty, "max_new_tokens": 24}
    requests = [(prompt, config.replace(**greedy)) for prompt, config in requests]
    speculator = Speculator(model, drafter_of(kind, model, shape), length=length)
    assert drafted(speculator, *requests) == plain(model, *requests)


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(st.tuples(prompts_of_ids, sampling), min_size=1, max_size=3),
    seq_len=st.sampled_from([3, 8, 64]),
    length=st.integers(1, 6),
)
def test_sampled_text_of_a_lookup_is_that_of_plain_decoding(requests, seq_len, length):
    model = lively(seq_len=seq_len)
    speculator = Speculator(model, LookupDrafter(length=2), length=length)
    assert drafted(speculator, *requests) == plain(model, *requests)


@pytest.mark.parametrize("positions", ["rope", "none"])
@pytest.mark.parametrize("kind", ["lookup", "itself", "noisy"])
def test_truncating_goes_on_as_in_plain_decoding(positions, kind):
    shape = {"positions": positions}
    model = lively(**shape)
    request = ([1, 2], GREEDY.replace(overflow="truncate"))
    speculator = Speculator(model, drafter_of(kind, model, shape), length=3)
    assert drafted(speculator, request) == plain(model, request)


def test_overflow_may_be_an_error():
    model = lively()
    speculator = Speculator(model, LookupDrafter())
    config = GREEDY.replace(overflow="error", max_new_tokens=4)
    assert [len(new) for new in drafted(speculator, ([1] * 4, config))] == [4]
    with pytest.raises(ConfigError, match=r"5 prompt tokens and 4 new ones exceed.*seq_len of 8"):
        drafted(speculator, ([1], config), ([1] * 5, config))


@pytest.mark.parametrize("length", range(1, 7))
def test_a_drafter_that_is_the_model_is_always_right(length):
    model = lively(seq_len=64)
    speculator = Speculator(model, ModelDrafter(model), length=length)
    drafted(speculator, ([1, 2], GREEDY))
    # One token by the prompt's pass, and one more a pass than what it accepts.
    passes = 1 + math.ceil(23 / (length + 1))
    accepted = 24 - passes
    assert speculator.acceptance == Acceptance(accepted, accepted, 24, passes)


def test_a_useless_drafter_is_never_right():
    model = lively(seq_len=64)
    (new,) = plain(model, ([1, 2], GREEDY))
    wrong = Scripted([1, 2, *new], wrong=range(99))
    speculator = Speculator(model, wrong, length=3)
    assert drafted(speculator, ([1, 2], GREEDY)) == [new]
    assert speculator.acceptance == Acceptance(sum([3] * 20 + [2, 1]), 0, 24, 24)


def test_what_is_accepted_is_counted():
    model = lively(seq_len=64)
    config = GREEDY.replace(max_new_tokens=9)
    (new,) = plain(model, ([1, 2], config))
    speculator = Speculator(model, Scripted([1, 2, *new], wrong=[4]), length=3)
    assert drafted(speculator, ([1, 2], config)) == [new]
    # The prompt gives place 2. Of 3, 4, 5 one is right; of 5, 6, 7 all; of 9, 10 none is left
    # but 9, as the last token is not proposed.
    assert speculator.acceptance == Acceptance(7, 5, 9, 4)
    assert str(speculator.acceptance) == (
        "draft: 5 of 7 proposed tokens accepted (71%), 2.25 tokens a pass"
    )
    drafted(speculator, ([1, 2], config))
    assert speculator.acceptance == Acceptance(14, 10, 18, 8)


def test_nothing_accepted_of_nothing():
    assert str(Acceptance(0, 0, 0, 0)) == (
        "draft: 0 of 0 proposed tokens accepted (0%), 0.00 tokens a pass"
    )


def test_a_reader_may_end_a_row_within_what_is_accepted():
    model, passes = lively(seq_len=64), []
    (new,) = plain(model, ([1, 2], GREEDY))
    speculator = Speculator(model, Scripted([1, 2, *new]), length=6)
    model.norm.register_forward_hook(lambda *_: passes.append(1))
    (row, other) = rows_of([([1, 2], GREEDY), ([1, 2], GREEDY)])
    seen = []
    for owner, token in speculator.continue_rows([row, other]):
        if owner is row:
            seen.append(token.id)
            if len(seen) == 4:
                row.ending = "stop"
    assert seen == row.new_ids == new[:4]
    assert other.new_ids == new
    assert len(passes) == 2 + 5
    ended = rows_of([([1, 2], GREEDY)])[0]
    ended.ending = "cancelled"
    assert list(speculator.continue_rows([ended])) == []


def test_the_end_of_sequence_within_what_is_accepted():
    model = lively(seq_len=64)
    request = ([1], GREEDY.replace(temperature=1.0))
    (new,) = plain(model, request)
    place = new.index(EOS)
    assert place > 1
    ending = (request[0], request[1].replace(ignore_eos=False))
    speculator = Speculator(model, Scripted([1, *new]), length=place + 3)
    assert drafted(speculator, ending) == [new[:place]]
    assert speculator.acceptance.accepted == place
    assert speculator.acceptance.tokens == place + 1


def test_drafters_stop_at_an_end():
    row = Row([1, 2, EOS, 4, 1, 2], GREEDY.replace(ignore_eos=False), eos_id=EOS)
    assert LookupDrafter().propose(row, 4) == [Proposal(EOS)]
    model = lively(seq_len=64)
    (new,) = plain(model, ([1], GREEDY))
    eos = new[2]
    row = Row([1], GREEDY.replace(ignore_eos=False), eos_id=eos)
    proposed = [proposal.id for proposal in ModelDrafter(model).propose(row, 9)]
    assert proposed == new[: new.index(eos) + 1]


def looked_up(ids, length, count):
    """The slow way to look: every place, from the latest on, for every length."""
    for size in range(min(length, len(ids)), 0, -1):
        for end in range(len(ids) - 1, size - 1, -1):
            if ids[end - size : end] == ids[-size:]:
                copy = list(ids)
                for index in range(count):
                    copy.append(copy[end + index])
                return copy[len(ids) :]
    return []


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=1, max_size=12),
            st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), max_size=4),
        ),
        min_size=1,
        max_size=2,
    ),
    length=st.integers(1, 4),
    count=st.integers(1, 5),
)
def test_looking_up_is_looking_everywhere(texts, length, count):
    drafter = LookupDrafter(length=length)
    for prompt, pieces in texts:
        row = Row(prompt, GREEDY.replace(max_new_tokens=99))
        for piece in [[], *pieces]:
            for token in piece:
                row.take(token)
            proposals = drafter.propose(row, count)
            assert proposals == [Proposal(token) for token in looked_up(row.ids, length, count)]


def test_a_draft_model_reads_no_token_twice():
    model, read = lively(seq_len=64), []
    drafter = ModelDrafter(model)
    model.embedding.register_forward_hook(lambda _, given, __: read.append(given[0].shape[1]))
    row = Row([1, 2, 4], GREEDY)
    first = [proposal.id for proposal in drafter.propose(row, 3)]
    assert read == [3, 1, 1]
    for token in (first[0], first[1] + 1):
        row.take(token)
    read.clear()
    second = [proposal.id for proposal in drafter.propose(row, 2)]
    assert read == [1, 1]
    assert second == [proposal.id for proposal in ModelDrafter(model).propose(row, 2)]


@pytest.mark.parametrize("setting", [{"repetition_penalty": 3.0}, {"frequency_penalty": 4.0}])
def test_penalties_see_what_was_accepted_and_guessed(setting):
    model = lively(seq_len=64)
    config = GREEDY.replace(**setting)
    request = ([1, 2], config)
    speculator = Speculator(model, ModelDrafter(model), length=5)
    assert drafted(speculator, request) == plain(model, request)
    assert speculator.acceptance.accepted == speculator.acceptance.proposed > 0
    assert plain(model, request) != plain(model, ([1, 2], GREEDY))
    assert len({*plain(model, request)[0]}) > 5


def test_log_probabilities_are_those_of_the_model():
    model = lively(seq_len=64)
    config = SamplingConfig(max_new_tokens=12, top_logprobs=3, ignore_eos=True)
    row = Row([1, 2], config, seed=0)
    for _, token in Speculator(model, Noisy(seq_len=64)).continue_rows([row]):
        logprobs = model(torch.tensor([row.ids[:-1]]))[0, -1].log_softmax(-1)
        assert token.logprob == pytest.approx(logprobs[token.id].item(), abs=1e-5)
        assert [pair[0] for pair in token.top] == logprobs.topk(3).indices.tolist()


class Even:
    """Even ids only; it says so beforehand, or refuses the others; and it ends after 9."""

    def __init__(self, *, says):
        self.says, self.got = says, []

    @property
    def is_over(self):
        return len(self.got) == 9

    def allowed(self):
        return torch.arange(VOCAB) % 2 == 0 if self.says else torch.ones(VOCAB, dtype=torch.bool)

    def permits(self, token):
        return token % 2 == 0

    def advance(self, token):
        self.got.append(token)


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("kind", ["lookup", "itself", "noisy"])
def test_a_constraint_holds_token_by_token(says, temperature, kind):
    model = lively(seq_len=64)
    config = GREEDY.replace(temperature=temperature)
    drafter = drafter_of(kind, model, {"seq_len": 64})
    row, alone = (Row([1, 2], config, seed=5, constraint=Even(says=says)) for _ in range(2))
    for _ in Speculator(model, drafter).continue_rows([row]):
        pass
    assert row.new_ids == row.constraint.got
    assert len(row.new_ids) == 9
    assert row.ending == "eos"
    assert all(token % 2 == 0 for token in row.new_ids)
    if temperature == 0 or kind == "lookup":
        for _ in continue_rows(model, [alone]):
            pass
        assert row.ids == alone.ids


@pytest.mark.parametrize("kind", ["lookup", "itself", "noisy"])
def test_a_seed_decides_whatever_was_drafted_before(kind):
    model = lively(seq_len=64)
    config = GREEDY.replace(temperature=1.5)
    speculator = Speculator(model, drafter_of(kind, model, {"seq_len": 64}))
    first, second = drafted(speculator, ([1, 2], config), ([1, 2, 3], config))
    assert drafted(speculator, ([1, 2], config)) == [first]
    row = Row([1, 2, 3], config, seed=1)
    assert ids_of(speculator.continue_rows([row]), [row]) == [second]
    assert drafted(speculator, ([5], config), ([1, 2], config))[1] != first


# The distribution of what is sampled.

weights = st.lists(st.integers(0, 6), min_size=5, max_size=5).filter(any)


class Fixed:
    """Randomness that comes from a list."""

    def __init__(self, *uniforms):
        self.uniform = iter(uniforms).__next__


def shares(wanted_V, drawn_V, rule):
    """What `rule` makes of tokens drawn by q, over a fine grid of all that is random in it."""
    steps = 60
    grid = [(step + 0.5) / steps for step in range(steps)]
    result = [0.0] * len(wanted_V)
    for token, likely in enumerate(drawn_V.tolist()):
        if likely == 0:
            continue
        accepted = sum(rule(token, drawn_V, wanted_V, Fixed(u, 0.5)) == token for u in grid) / steps
        result[token] += likely * accepted
        if accepted < 1:
            for u in grid:
                other = rule(token, drawn_V, wanted_V, Fixed(1 - 1e-9, u))
                result[other] += likely * (1 - accepted) / steps
    return torch.tensor(result)


@settings(max_examples=15, deadline=None)
@given(wanted=weights, drawn=weights)
def test_what_is_drawn_by_one_distribution_becomes_drawn_by_another(wanted, drawn):
    wanted_V, drawn_V = (torch.tensor(w, dtype=torch.float32) / sum(w) for w in (wanted, drawn))
    actual = shares(wanted_V, drawn_V, accept_or_redraw)
    torch.testing.assert_close(actual, wanted_V, atol=0.03, rtol=0)


def without_residual(token, drawn_V, wanted_V, row):
    if row.uniform() * drawn_V[token].item() < wanted_V[token].item():
        return token
    return int(speculative.draw(wanted_V.unsqueeze(0), torch.tensor([row.uniform()])))


def always(token, drawn_V, wanted_V, row):
    return token


@pytest.mark.parametrize("rule", [without_residual, always])
def test_another_rule_would_not_do(rule):
    wanted_V, drawn_V = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.6, 0.3, 0.1])
    assert (shares(wanted_V, drawn_V, rule) - wanted_V).abs().max() > 0.1


def tiny(seed, *, sureness=1):
    shape = {"vocab_size": 5, "seq_len": 6, "embed_dim": 8, "num_layers": 1, "n_heads": 1}
    model = GPT(ModelConfig(**shape), seed=seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6 if parameter.dim() > 1 else 1)
        model.lm_head.weight.mul_(sureness)
    return model


@torch.no_grad()
def exact_distribution(model, config, prompt, new):
    """The probability of each text of `new` tokens, by the model's own word on every prefix."""
    likely = {(): 1.0}
    for count in range(new):
        texts = list(likely)
        contexts = [[*prompt, *text] for text in texts]
        logits = model(torch.tensor(contexts))[:, -1]
        processed = process(logits, config, contexts=contexts, new=[count] * len(texts))
        each = probabilities(processed, config).tolist()
        likely = {
            (*text, token): likely[text] * share
            for text, row in zip(texts, each, strict=True)
            for token, share in enumerate(row)
        }
    return likely


def chi_square(speculator, model, config, *, draws):
    """How far tokens 2 and 3, or 3 and 4, of four are from their joint distribution, in
    deviations of chi-square from its mean; the worse of the two."""
    exact = exact_distribution(model, config, [1, 2], 4)
    rows = [Row([1, 2], config, seed=seed) for seed in range(draws)]
    for _ in speculator.continue_rows(rows):
        pass
    return max(
        chi_square_of_pair(exact, [row.new_ids for row in rows], slice(first, first + 2))
        for first in (1, 2)
    )


def chi_square_of_pair(exact, texts, part):
    expected = dict.fromkeys(itertools.product(range(5), repeat=2), 0.0)
    counts = dict(expected)
    for text, share in exact.items():
        expected[text[part]] += share * len(texts)
    for text in texts:
        counts[tuple(text[part])] += 1
    assert all(expected[pair] > 0 for pair, count in counts.items() if count)
    # Rare ones together, as chi-square needs some of each.
    frequent = [pair for pair, mean in expected.items() if mean >= 5]
    cells = [(counts[pair], expected[pair]) for pair in frequent]
    rest = [len(texts) - sum(column) for column in zip(*cells, strict=True)]
    if rest[1] >= 5:
        cells.append(rest)
    value = sum((count - mean) ** 2 / mean for count, mean in cells)
    freedom = len(cells) - 1
    assert freedom >= 3
    return (value - freedom) / math.sqrt(2 * freedom)


SAMPLED = {
    "temperature": {"temperature": 0.7},
    "filters": {"temperature": 1.2, "top_k": 4, "top_p": 0.9},
    "penalties": {"frequency_penalty": 1.0, "repetition_penalty": 1.5, "logit_bias": {3: 1.0}},
}


@pytest.mark.parametrize(
    ("kind", "name"), [*(("model", name) for name in SAMPLED), ("lookup", "temperature")]
)
def test_the_text_is_distributed_as_the_model_says(kind, name):
    model = tiny(0)
    config = SamplingConfig(max_new_tokens=4, **SAMPLED[name])
    drafter = ModelDrafter(tiny(1, sureness=4)) if kind == "model" else LookupDrafter()
    speculator = Speculator(model, drafter, length=2)
    assert chi_square(speculator, model, config, draws=600) < 4
    assert 0.02 < speculator.acceptance.accepted / speculator.acceptance.proposed < 0.98


@pytest.mark.parametrize("rule", [without_residual, always])
def test_the_distribution_would_show_another_rule(rule, monkeypatch):
    monkeypatch.setattr(speculative, "accept_or_redraw", rule)
    model = tiny(0)
    config = SamplingConfig(max_new_tokens=4, temperature=0.7)
    speculator = Speculator(model, ModelDrafter(tiny(1, sureness=4)), length=2)
    assert chi_square(speculator, model, config, draws=600) > 8


# What can't be.


def test_vocabularies_must_agree():
    message = "draft model's vocab_size is 5, but the model's is 17; choose a draft model of the"
    with pytest.raises(ConfigError, match=message):
        Speculator(lively(), ModelDrafter(tiny(0)))


def test_lengths_are_positive():
    with pytest.raises(ConfigError, match="draft_length is 0; choose 1 or more"):
        Speculator(lively(), LookupDrafter(), length=0)
    with pytest.raises(ConfigError, match="length to look up is 0; choose 1 or more"):
        LookupDrafter(length=0)


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_model_of_broken_numbers_is_named(temperature):
    broken = lively(seq_len=64)
    with torch.no_grad():
        broken.lm_head.weight[0] = math.nan
    config = GREEDY.replace(temperature=temperature)
    with pytest.raises(GenerationError, match="largest of the model's logits is nan"):
        drafted(Speculator(broken, LookupDrafter()), ([1], config))
    # As a draft model it is no help, and no harm.
    model = lively(seq_len=64)
    speculator = Speculator(model, ModelDrafter(broken))
    assert [len(new) for new in drafted(speculator, ([1], config))] == [24]
    assert speculator.acceptance.proposed == 0


# The generator.

TOKENIZER = train_bpe(texts=["the quick brown fox, naïve 中文字 🙂 " * 5], vocab_size=280)


@pytest.fixture(scope="module")
def model():
    return lively(vocab_size=280, seq_len=32, num_layers=1)


@pytest.mark.parametrize("kind", ["lookup", "itself"])
def test_a_generator_with_a_drafter_makes_the_same(model, kind):
    drafter = LookupDrafter() if kind == "lookup" else ModelDrafter(model)
    alone, both = Generator(model, TOKENIZER), Generator(model, TOKENIZER, drafter=drafter)
    config = GREEDY.replace(max_new_tokens=40, frequency_penalty=0.0)
    prompts = ["the quick", "fox, the fox", "the quick"]
    assert both.generate(prompts, config) == alone.generate(prompts, config)
    assert "".join(both.stream("中文", config)) == alone.generate("中文", config)
    assert both.generate_ids([[1, 2]], config) == alone.generate_ids([[1, 2]], config)
    assert alone.acceptance is None
    assert both.acceptance.accepted > 0
    assert both.acceptance.tokens == 200


def test_a_stop_text_within_what_is_accepted(model):
    alone = Generator(model, TOKENIZER)
    both = Generator(model, TOKENIZER, drafter=ModelDrafter(model), draft_length=6)
    whole = alone.generate("the", GREEDY)
    stop = whole[6:8]
    config = GREEDY.replace(stop=(stop,))
    (completion,) = both.complete(["the"], config)
    assert completion == alone.complete(["the"], config)[0]
    assert completion.ending == "stop"
    assert completion.text == whole[: whole.index(stop)]
