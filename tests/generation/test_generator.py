import pytest
import torch

from gptlab import checkpoint
from gptlab.config import ModelConfig, SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation import Generator
from gptlab.generation.texts import make_rows
from gptlab.model import GPT
from gptlab.tokenizer import BPETokenizer, train_bpe

TOKENIZER = train_bpe(texts=["the quick brown fox, naïve 中文字 🙂 " * 5], vocab_size=280)
CONFIG = SamplingConfig(max_new_tokens=30, seed=1, ignore_eos=True)


@pytest.fixture(scope="module")
def generator():
    shape = ModelConfig(vocab_size=280, seq_len=12, embed_dim=16, num_layers=1, n_heads=2)
    model = GPT(shape, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return Generator(model, TOKENIZER)


def test_the_stream_joined_is_the_text(generator):
    for prompt in ("the", "the quick brown fox, the quick", "", "中文"):
        pieces = list(generator.stream(prompt, CONFIG))
        assert all(pieces)
        assert "".join(pieces) == generator.generate(prompt, CONFIG)


def test_the_text_is_that_of_the_ids(generator):
    ids = TOKENIZER.encode("the fox")
    (new,) = generator.generate_ids([ids], CONFIG)
    assert len(new) == 30
    text = b"".join(map(TOKENIZER.token_bytes, new)).decode("utf-8", "replace")
    assert generator.generate("the fox", CONFIG) == text


def test_special_tokens_in_a_prompt_count_if_allowed(generator):
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode("the fox")]
    allowing = Generator(generator.model, TOKENIZER, allow_special=True)
    assert allowing.encode_prompt("<BOS>the fox") == ids
    assert allowing.encode_prompt("") == [TOKENIZER.eos_id]
    assert generator.encode_prompt("<BOS>the fox") == TOKENIZER.encode("<BOS>the fox") != ids


def test_a_prompt_is_continued_the_same_way_in_any_company(generator):
    prompts = ["the", "quick brown fox, the quick brown", "fox"]
    alone = [generator.generate(prompt, CONFIG) for prompt in prompts]
    assert len({*alone}) == 3
    assert generator.generate(prompts, CONFIG) == alone
    assert generator.generate(prompts[::-1], CONFIG) == alone[::-1]


def test_copies_of_a_prompt_differ_and_the_first_is_as_alone(generator):
    first, other, second, third = generator.generate_ids([[1], [2], [1], [1]], CONFIG)
    assert len({tuple(first), tuple(second), tuple(third)}) == 3
    assert generator.generate_ids([[1]], CONFIG) == [first]
    assert generator.generate_ids([[2]], CONFIG) == [other]


def test_greedy_copies_are_alike(generator):
    first, second = generator.generate(["the", "the"], CONFIG.replace(temperature=0))
    assert first == second


def test_a_seed_decides_and_no_seed_draws_anew(generator):
    ids = [generator.generate_ids([[1]], CONFIG.replace(seed=seed)) for seed in (1, 2, None, None)]
    assert ids[0] == generator.generate_ids([[1]], CONFIG)
    assert ids[0] != ids[1]
    assert ids[2] != ids[3]


@pytest.mark.parametrize("seed", [None, 1])
def test_the_global_generator_is_left_alone(generator, seed):
    state = torch.get_rng_state()
    generator.generate(["the", "fox"], CONFIG.replace(seed=seed))
    assert torch.equal(torch.get_rng_state(), state)


def test_stop_ends_the_text_before_it(generator):
    whole = generator.generate("the", CONFIG)
    stop = whole[5:8]
    config = CONFIG.replace(stop=("never there", stop))
    assert generator.generate("the", config) == whole[: whole.index(stop)]
    assert "".join(generator.stream("the", config)) == whole[: whole.index(stop)]
    other = generator.generate("fox", CONFIG).partition(stop)[0]
    assert generator.generate(["the", "fox"], config)[1] == other


def test_a_stopped_row_is_read_no_further(generator):
    passes = []
    hook = generator.model.norm.register_forward_hook(lambda *_: passes.append(1))
    text = generator.generate("the", CONFIG)
    whole = len(passes)
    generator.generate("the", CONFIG.replace(stop=(text[5],)))
    hook.remove()
    assert len(passes) - whole < whole / 2


def test_stop_needs_text(generator):
    with pytest.raises(ConfigError, match="stop texts need text; use generate"):
        generator.generate_ids([[1]], CONFIG.replace(stop=("x",)))


def test_one_prompt_gives_a_text_and_several_a_list(generator):
    config = CONFIG.replace(max_new_tokens=1)
    assert isinstance(generator.generate("the", config), str)
    assert isinstance(generator.generate(["the"], config), list)
    assert generator.generate([], config) == []
    assert generator.generate_ids([], config) == []


def test_an_empty_prompt_starts_a_document(generator):
    assert generator.encode_prompt("") == [TOKENIZER.eos_id]
    (new,) = generator.generate_ids([[TOKENIZER.eos_id]], CONFIG)
    text = b"".join(map(TOKENIZER.token_bytes, new)).decode("utf-8", "replace")
    assert generator.generate("", CONFIG) == text


def test_an_empty_prompt_without_special_tokens(generator):
    class Plain:
        bos_id = eos_id = None

        def encode(self, text, **_):
            return list(text.encode())

    with pytest.raises(ConfigError, match="the prompt is empty; give it some text"):
        Generator(generator.model, Plain()).encode_prompt("")


def test_the_end_of_sequence_is_no_part_of_the_text(generator):
    (ids,) = generator.generate_ids([TOKENIZER.encode("the")], CONFIG)

    class Ending(BPETokenizer):
        eos_id = ids[10]

    ending = Generator(generator.model, Ending(TOKENIZER.merges))
    before = ids[: ids.index(ids[10])]
    text = b"".join(map(TOKENIZER.token_bytes, before)).decode("utf-8", "replace")
    assert ending.generate("the", CONFIG.replace(ignore_eos=False)) == text


def test_a_generator_evaluates():
    shape = ModelConfig(
        vocab_size=280, seq_len=8, embed_dim=8, num_layers=1, n_heads=2, dropout=0.5
    )
    generator = Generator(GPT(shape, seed=0).train(), TOKENIZER)
    config = SamplingConfig(max_new_tokens=10, temperature=0)
    assert generator.generate("the", config) == generator.generate("the", config)


def test_load(generator, tmp_path):
    folder = checkpoint.save(tmp_path / "model", generator.model, TOKENIZER)
    loaded = Generator.load(folder)
    assert loaded.generate("the", CONFIG) == generator.generate("the", CONFIG)


def test_beam_search_finds_texts(generator):
    found = generator.beam_search("the", beams=3, max_new_tokens=5)
    assert len({beam.text for beam in found}) == len(found) == 3
    assert [beam.score for beam in found] == sorted((beam.score for beam in found), reverse=True)
    greedy = CONFIG.replace(max_new_tokens=5, temperature=0, ignore_eos=False)
    (alone,) = generator.beam_search("the", beams=1, max_new_tokens=5)
    assert alone.text == generator.generate("the", greedy)


def test_complete_says_how_a_text_came_about(generator):
    whole = generator.generate("the", CONFIG)
    config = CONFIG.replace(top_logprobs=2, stop=(whole[5:8],))
    stopped, full = generator.complete(["the", "fox"], config.replace(max_new_tokens=30))
    assert (stopped.text, stopped.ending) == (whole[: whole.index(whole[5:8])], "stop")
    assert all(len(token.top) == 2 and token.logprob <= 0 for token in stopped.tokens)
    assert full.ending in ("length", "stop")
    assert [token.id for token in full.tokens][:1] == generator.generate_ids(
        [TOKENIZER.encode("fox")], CONFIG.replace(max_new_tokens=1)
    )[0]


def test_banned_words_do_not_come(generator):
    (ids,) = generator.generate_ids([[1]], CONFIG)
    letters = [chr(token) for token in ids if 33 <= token < 127]
    (others,) = generator.generate_ids([[1]], CONFIG.replace(banned_words=tuple(letters)))
    assert letters
    assert not {chr(token) for token in others if token < 127} & {*letters}


def test_no_two_copies_share_their_randomness_whatever_the_seeds():
    rows = [
        row
        for seed in range(50)
        for row in make_rows(TOKENIZER, [[1]] * 4, CONFIG.replace(seed=seed), vocab_size=280)
    ]
    assert len({row.uniform() for row in rows}) == 200
