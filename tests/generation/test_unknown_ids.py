"""Models with rows that their tokenizer has no id for, as many pretrained ones are."""

import pytest
import tiktoken
import torch

from gptlab.config import ModelConfig, SamplingConfig
from gptlab.generation import Generator, LookupDrafter, ModelDrafter, Scheduler
from gptlab.generation.vocabulary import unknown_ids
from gptlab.model import GPT
from gptlab.tokenizer import BPETokenizer, TiktokenTokenizer, train_bpe
from gptlab.tokenizer.chunks.steps import NamedSplit
from gptlab.tokenizer.formats.alphabet import spell
from gptlab.tokenizer.formats.definition import Definition

TOKENIZER = train_bpe(texts=["the quick brown fox, naïve 中文字 🙂 " * 5], vocab_size=280)
SIZE, LARGER = TOKENIZER.vocab_size, 320
PROMPTS = ["the", "quick, brown, fox, the", "fox", "the"]
SETTINGS = {
    "greedy": SamplingConfig(temperature=0, frequency_penalty=0.3),
    "sampled": SamplingConfig(seed=3),
    "top_k": SamplingConfig(seed=1, top_k=5, repetition_penalty=1.3),
    "top_p and the like": SamplingConfig(seed=2, top_p=0.8, typical_p=0.9, min_p=0.01),
    "biased": SamplingConfig(seed=4, logit_bias={5: 3.0}, banned_words=["the"]),
    "held to a pattern": SamplingConfig(seed=5, regex="[a-z ]{30}"),
    "held to Python": SamplingConfig(temperature=0, valid_python=True),
}


def shape(vocab_size):
    return ModelConfig(
        vocab_size=vocab_size,
        seq_len=64,
        embed_dim=16,
        num_layers=1,
        n_heads=2,
        tie_embeddings=False,
    )


def make_model(vocab_size=LARGER, seed=0):
    """A model in which the rows beyond the tokenizer's are what it would draw most."""
    model = GPT(shape(vocab_size), seed=seed).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
        model.lm_head.weight[SIZE:] *= 20
    return model


def cut(model):
    """The same model without the rows that the tokenizer has no id for."""
    smaller = GPT(shape(SIZE)).double()
    state = model.state_dict()
    for name in ("embedding.weight", "lm_head.weight"):
        state[name] = state[name][:SIZE]
    smaller.load_state_dict(state)
    return smaller


MODEL = make_model()
PLAIN = Generator(cut(MODEL), TOKENIZER)
LONG = {"max_new_tokens": 24, "ignore_eos": True}


def test_without_care_it_would_be_drawn():
    ids = torch.tensor([TOKENIZER.encode("the")])
    assert MODEL(ids)[0, -1].argmax() >= SIZE


@pytest.mark.parametrize("settings", SETTINGS)
def test_texts_are_those_of_the_model_without_such_rows(settings):
    config = SETTINGS[settings].replace(**LONG)
    generator = Generator(MODEL, TOKENIZER)
    expected = PLAIN.generate(PROMPTS, config)
    assert generator.generate(PROMPTS, config) == expected
    assert "".join(generator.stream(PROMPTS[0], config)) == expected[0]
    with Scheduler(generator, slots=2) as scheduler:
        requests = [scheduler.submit(prompt, config) for prompt in PROMPTS[:3]]
        assert [request.result(timeout=30).text for request in requests] == expected[:3]


@pytest.mark.parametrize("settings", SETTINGS)
def test_speculation_too(settings):
    config = SETTINGS[settings].replace(**LONG)
    drafted = Generator(MODEL, TOKENIZER, drafter=LookupDrafter())
    assert drafted.generate(PROMPTS, config) == PLAIN.generate(PROMPTS, config)
    draft = make_model(seed=1)
    drafted = Generator(MODEL, TOKENIZER, drafter=ModelDrafter(draft), draft_length=3)
    plain = Generator(PLAIN.model, TOKENIZER, drafter=ModelDrafter(cut(draft)), draft_length=3)
    assert drafted.generate(PROMPTS, config) == plain.generate(PROMPTS, config)
    assert drafted.acceptance == plain.acceptance


@pytest.mark.parametrize("beams", [1, 3])
def test_beams_have_none(beams):
    found = Generator(MODEL, TOKENIZER).beam_search("the", beams=beams, max_new_tokens=6)
    assert len(found) == beams
    logprobs = [text.log_probability for text in found]
    assert logprobs == sorted(logprobs, reverse=True)
    if beams == 1:
        config = SamplingConfig(temperature=0, max_new_tokens=6)
        assert found[0].text == PLAIN.generate("the", config)
        # The probability is the model's, who gives most to what can't be drawn.
        (plain,) = PLAIN.beam_search("the", beams=1, max_new_tokens=6)
        assert logprobs[0] < plain.log_probability - 1


def test_log_probabilities_are_the_models_and_name_no_such_id():
    config = SamplingConfig(temperature=0, max_new_tokens=1, top_logprobs=LARGER)
    (completion,) = Generator(MODEL, TOKENIZER).complete(["the"], config)
    logprobs = MODEL(torch.tensor([TOKENIZER.encode("the")]))[0, -1].float().log_softmax(dim=-1)
    (token,) = completion.tokens
    assert token.logprob == pytest.approx(logprobs[token.id].item())
    assert sorted(id for id, _ in token.top) == list(range(SIZE))
    assert dict(token.top) == pytest.approx({i: logprobs[i].item() for i in range(SIZE)})


def with_gaps():
    """Bytes with an id in two."""
    vocab = {spell(bytes([byte])): 2 * byte for byte in range(128)}
    return BPETokenizer.from_definition(
        Definition(vocab=vocab, merges=(), added_tokens=(), steps=(NamedSplit("gpt2"),))
    )


def test_gaps_are_not_drawn():
    tokenizer = with_gaps()
    assert tokenizer.gaps == tuple(range(1, 255, 2))
    generator = Generator(make_model(), tokenizer)
    config = SamplingConfig(seed=0, max_new_tokens=30)
    (ids,) = generator.generate_ids([tokenizer.encode("a")], config)
    assert all(i % 2 == 0 and i < 255 for i in ids)
    assert len({*ids}) > 5
    (greedy,) = generator.generate_ids([tokenizer.encode("a")], config.replace(temperature=0))
    context = tokenizer.encode("a")
    for token in greedy:
        logits = generator.model(torch.tensor([context]))[0, -1]
        assert token == 2 * logits[0:255:2].argmax()
        context.append(token)


def test_which_ids_are_unknown():
    assert unknown_ids(TOKENIZER, SIZE) is None
    assert unknown_ids(TOKENIZER, SIZE - 1) is None
    assert unknown_ids(TOKENIZER, SIZE + 2).nonzero().flatten().tolist() == [SIZE, SIZE + 1]
    few = unknown_ids(with_gaps(), 4)
    assert few.tolist() == [False, True, False, True]
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "gap", pat_str="[\\s\\S]", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 259}
    )
    tokenizer = TiktokenTokenizer(encoding)
    assert tokenizer.gaps == (256, 257, 258)
    assert unknown_ids(tokenizer, 261).nonzero().flatten().tolist() == [256, 257, 258, 260]


def test_where_all_ids_are_known_nothing_is_masked():
    (row,) = PLAIN.make_rows([[1]], SamplingConfig())
    assert row.unknown_V is None
