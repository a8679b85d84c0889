"""Targets of an encoder-decoder, against loops that read source and target anew for each token."""

import itertools
import math
import random
import re
import string

import pytest
import torch

from gptlab import Encoder, Generator, ModelConfig, Scheduler, Transformer, TransformerConfig
from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError
from gptlab.generation import LookupDrafter
from gptlab.generation.beam import Beam, beam_search
from gptlab.model import quantize
from gptlab.tokenizer import train_bpe
from gptlab.tokenizer.chat import TEMPLATES
from gptlab.tokenizer.pair import PairTokenizer

PAD, BOS, EOS = range(3)
COMPILE = torch.compile
SEQ_LEN = 14


class Letters:
    """A token a letter, behind those of padding, beginning and end."""

    pad_id, unk_id, eos_id = PAD, None, EOS

    def __init__(self, letters=string.ascii_lowercase[:9], *, bos_id=BOS, gaps=()):
        self.letters, self.bos_id, self.gaps = letters, bos_id, gaps
        self.vocab_size = 3 + len(letters)

    def encode(self, text, **_options):
        return [3 + self.letters.index(letter) for letter in text]

    def decode(self, ids):
        return "".join(self.letters[token - 3] for token in ids if token > 2)

    def token_bytes(self, token):
        return self.decode([token]).encode()


LETTERS = Letters()
SOURCES = ["abcabcabc", "d", "gfedcba", "hh", "iaiaiaiaia", "bd"]
SHAPE = {"vocab_size": 12, "seq_len": SEQ_LEN, "embed_dim": 16, "num_layers": 2, "n_heads": 4}
KINDS = {
    "rotary": {},
    "paper": {"positions": "sinusoidal", "norm_place": "post", "activation": "relu", "bias": True},
    "other": {
        "positions": "learned",
        "n_kv_heads": 2,
        "encoder_layers": 1,
        "tie_embeddings": True,
        "share_embeddings": False,
        "norm": "rmsnorm",
    },
}


def lively(**changes):
    """A model whose next token depends on the target so far, and even more on the source."""
    model = Transformer(TransformerConfig(**{**SHAPE, **changes}), seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                deviation = 1.5 if "cross_attention.o" in name else 0.3
                parameter.normal_(0, deviation, generator=generator)
    return model


@pytest.fixture(scope="module")
def generator():
    return Generator(lively(), LETTERS)


def ids_of(text):
    return [*LETTERS.encode(text), EOS]


@torch.no_grad()
def slowly(model, source, config, *, start=BOS, unknown=()):
    """New ids and their log-probabilities, without a cache, by all that the settings say."""
    uniforms, new, logprobs = random.Random(config.seed), [], []
    while len(new) < min(config.max_new_tokens, model.config.seq_len - 1):
        logits = model(torch.tensor([source]), torch.tensor([[start, *new]]))[0, -1].double()
        logprobs_V = logits.log_softmax(-1)
        for token in {*new}:
            penalty = config.repetition_penalty
            logits[token] = (
                logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
            )
        for token, bias in config.logit_bias.items():
            logits[token] += bias
        logits[list(unknown)] = -math.inf
        uniform, token = uniforms.random(), int(logits.argmax())
        if config.temperature > 0:
            sums = (logits / config.temperature).softmax(-1).cumsum(-1)
            token = int((sums > uniform * sums[-1]).to(torch.uint8).argmax())
        if token == EOS and not config.ignore_eos:
            return new, logprobs
        new.append(token)
        logprobs.append(float(logprobs_V[token]))
    return new, logprobs


NO_PADDING = {PAD: -9.0, BOS: -9.0}
GREEDY = SamplingConfig(
    temperature=0, max_new_tokens=50, top_logprobs=0, logit_bias=NO_PADDING, seed=0
)
DRAWN = GREEDY.replace(temperature=0.9, seed=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "config",
    [GREEDY, GREEDY.replace(repetition_penalty=1.5), DRAWN, DRAWN.replace(max_new_tokens=5)],
    ids=["greedy", "penalised", "drawn", "short"],
)
def test_a_batch_is_what_reading_each_anew_gives(kind, config):
    generator = Generator(lively(**KINDS[kind]), LETTERS)
    found = generator.complete(SOURCES, config)
    for source, completion in zip(SOURCES, found, strict=True):
        new, logprobs = slowly(generator.model, ids_of(source), config)
        assert [token.id for token in completion.tokens] == new
        assert [token.logprob for token in completion.tokens] == pytest.approx(logprobs, abs=1e-4)
        assert completion.text == LETTERS.decode(new)
        (alone,) = generator.complete([source], config)
        assert (alone.text, alone.ending) == (completion.text, completion.ending)
        assert "".join(generator.stream(source, config)) == completion.text
    # They differ, in their lengths too, or nothing of this would say much.
    assert len({completion.text for completion in found}) >= 3
    assert len({len(completion.tokens) for completion in found}) >= 2 or config is GREEDY


def test_a_target_that_fills_the_context_ends_by_its_length(generator):
    config = GREEDY.replace(max_new_tokens=1000, logit_bias={EOS: -50.0})
    for completion in generator.complete(SOURCES[:2], config):
        assert completion.ending == "length"
        assert len(completion.tokens) == SEQ_LEN - 1
    assert generator.complete(["d"], GREEDY.replace(logit_bias={EOS: 50.0}))[0].ending == "eos"


def test_a_longest_source_is_read_to_its_end(generator):
    longest = [3] * (SEQ_LEN - 1) + [EOS]
    (new,) = generator.generate_ids([longest], GREEDY)
    assert new == slowly(generator.model, longest, GREEDY)[0]


def test_copies_are_read_once_and_drawn_apart(generator):
    read = []
    hook = generator.model.encoder.norm.register_forward_hook(
        lambda _module, _inputs, hidden: read.append(tuple(hidden.shape[:2]))
    )
    config = DRAWN.replace(ignore_eos=True)
    found = generator.generate(["abc", "d", "abc", "abc"], config)
    hook.remove()
    assert read == [(2, 4)]
    assert len({*found}) == 4
    assert generator.generate(["d", "abc"], config) == [found[1], found[0]]
    greedy = generator.generate(["abc", "d", "abc"], GREEDY)
    assert greedy[0] == greedy[2] == generator.generate("abc", GREEDY)


def test_an_earlier_tenant_of_a_slot_leaves_nothing_behind(generator):
    """Requests come and leave, and a short source follows a long one."""
    scheduler = Scheduler(generator, slots=3, prefill_tokens=20)
    configs = [DRAWN.replace(seed=n, max_new_tokens=3 + 4 * (n % 3)) for n in range(9)]
    sources = [SOURCES[n % 6] for n in range(9)]
    requests = []
    for source, config in zip(sources, configs, strict=True):
        requests.append(scheduler.submit(source, config))
        scheduler.step()
    while scheduler.step():
        pass
    for source, config, request in zip(sources, configs, requests, strict=True):
        (alone,) = generator.complete([source], config)
        found = request.result()
        assert (found.text, found.ending) == (alone.text, alone.ending)
        ours, theirs = ([token.logprob for token in one.tokens] for one in (found, alone))
        assert ours == pytest.approx(theirs, abs=1e-4)


def traced_alone(function, **options):
    """Compiles up to the graph, and not to machine code, which takes seconds a number of rows."""
    del options["options"]
    return COMPILE(function, backend="eager", **options)


@pytest.mark.parametrize("rows", [1, 4])
def test_compiled_steps_give_the_targets_of_plain_ones(rows, monkeypatch):
    if rows == 1:
        monkeypatch.setattr(torch, "compile", traced_alone)
    model = lively(num_layers=1, qk_norm=False, positions="none", activation="relu")
    sources = [[5], ids_of("d"), ids_of("gfedcba"), [3] * (SEQ_LEN - 1) + [EOS]]
    plain, compiled = (Generator(model, LETTERS, compile=mode) for mode in ("off", "on"))
    for config in (GREEDY, DRAWN.replace(ignore_eos=True)):
        batches = [[source] for source in sources] if rows == 1 else [sources, sources[1:]]
        for batch in (*batches, [[6]] * rows):
            found = compiled.generate_ids(batch, config)
            assert found == plain.generate_ids(batch, config)
    assert compiled.compiler.steps(1)._traced == {rows == 1}


@torch.no_grad()
def all_targets(model, source, *, length, penalty):
    """Every target of at most `length` tokens with its end, best first."""
    targets = {
        new[: new.index(EOS) + 1] if EOS in new else new
        for new in itertools.product(range(model.config.vocab_size), repeat=length)
    }
    beams = []
    for new in targets:
        logits = model(torch.tensor([source]), torch.tensor([[BOS, *new[:-1]]]))[0]
        each = logits.double().log_softmax(-1).gather(1, torch.tensor(new).unsqueeze(1))
        beams.append(Beam(new, float(each.sum()), float(each.sum()) / len(new) ** penalty))
    return sorted(beams, key=lambda beam: -beam.score)


@pytest.mark.parametrize("penalty", [0.0, 1.0, -0.5])
def test_enough_beams_find_the_best_of_all_targets(penalty):
    model = lively(vocab_size=4, src_vocab_size=12)
    source = ids_of("gfed")
    expected = all_targets(model, source, length=4, penalty=penalty)
    found = beam_search(
        model,
        [BOS],
        source=source,
        beams=len(expected),
        max_new_tokens=4,
        eos_id=EOS,
        length_penalty=penalty,
    )
    assert [beam.ids for beam in found] == [beam.ids for beam in expected]
    scores = [beam.score for beam in found]
    assert scores == pytest.approx([beam.score for beam in expected], abs=1e-4)


def test_beams_of_texts(generator):
    for source in SOURCES:
        (alone,) = generator.beam_search(source, beams=1, max_new_tokens=1000)
        assert alone.text == generator.generate(source, GREEDY)
        best = generator.beam_search(source, beams=4, max_new_tokens=1000)[0]
        assert best.score >= alone.score - 1e-6
    short, long = (
        generator.beam_search("d", beams=4, max_new_tokens=9, length_penalty=penalty)[0]
        for penalty in (-5.0, 5.0)
    )
    assert (short.text, len(long.text)) == ("", 9)


def test_ids_that_the_tokenizer_lacks_never_come():
    model, config = lively(vocab_size=40, share_embeddings=False), GREEDY.replace(max_new_tokens=9)
    tokenizer = PairTokenizer(Letters(gaps=(5, 7)), LETTERS)
    unknown = [5, 7, *range(12, 40)]
    for each in (config, DRAWN):
        found = Generator(model, tokenizer).generate_ids([*map(ids_of, SOURCES)], each)
        for source, new in zip(SOURCES, found, strict=True):
            assert new == slowly(model, ids_of(source), each, unknown=unknown)[0]
    assert any({*slowly(model, ids_of(source), config)[0]} & {*unknown} for source in SOURCES)
    texts = Generator(model, tokenizer).beam_search("abc", beams=5, max_new_tokens=6)
    assert not {*"".join(found.text for found in texts)} & {"c", "e"}


def test_each_side_has_its_own_tokenizer():
    sources = train_bpe(texts=["The cat sat on the mat. " * 9], vocab_size=270)
    model = lively(src_vocab_size=270)
    generator = Generator(model, PairTokenizer(LETTERS, sources))
    ids = [*sources.encode("The cat"), sources.eos_id]
    assert generator.encode_prompt("The cat") == ids
    new, _ = slowly(model, ids, GREEDY)
    assert generator.generate("The cat", GREEDY) == LETTERS.decode(new)
    allowing = Generator(model, PairTokenizer(LETTERS, sources), allow_special=True)
    assert allowing.encode_prompt("<BOS>") == [sources.bos_id, sources.eos_id]
    # What holds a text to a pattern looks into the target's vocabulary.
    back = Generator(lively(vocab_size=270, src_vocab_size=12), PairTokenizer(sources, LETTERS))
    found = back.generate(SOURCES, DRAWN.replace(regex="é (cat|mat){2}", max_new_tokens=13))
    assert all(re.fullmatch("é (cat|mat){2}", text) for text in found)


def test_settings_look_at_the_target_alone():
    """Without a token for its beginning, a target begins with that of the end: no repeat."""
    generator = Generator(lively(), Letters(bos_id=None))
    config = GREEDY.replace(repetition_penalty=1.7)
    found = generator.complete(SOURCES, config)
    plain = generator.complete(SOURCES, GREEDY)
    for source, completion in zip(SOURCES, found, strict=True):
        new, _ = slowly(generator.model, ids_of(source), config, start=EOS)
        assert [token.id for token in completion.tokens] == new
    assert [one.text for one in found] != [one.text for one in plain]
    assert "eos" in {one.ending for one in found}


def test_stop_texts_and_banned_words(generator):
    config = DRAWN.replace(ignore_eos=True, top_logprobs=None)
    whole = generator.generate(SOURCES, config)
    stop = whole[0][3:5]
    stopped = generator.complete(SOURCES, config.replace(stop=(stop,)))
    assert [one.text for one in stopped] == [text.partition(stop)[0] for text in whole]
    assert stopped[0].ending == "stop"
    banned = config.replace(logit_bias={3: 3.0})
    assert "a" in "".join(generator.generate(SOURCES, banned))
    letters = Letters(letters=string.ascii_lowercase[:8] + " ")
    without = Generator(generator.model, letters).generate(
        ["abc", "d"], banned.replace(banned_words=("a",))
    )
    assert "a" not in "".join(without)


def test_eight_bits_and_autocast():
    whole = lively(embed_dim=32)
    model = quantize(whole, bits=8)
    found = Generator(model, LETTERS).complete(SOURCES, GREEDY)
    for source, completion in zip(SOURCES, found, strict=True):
        new, logprobs = slowly(model, ids_of(source), GREEDY)
        assert [token.id for token in completion.tokens] == new
        assert [token.logprob for token in completion.tokens] == pytest.approx(logprobs, abs=1e-4)
    config = GREEDY.replace(ignore_eos=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = Generator(whole, LETTERS).complete(SOURCES, config)
    for source, completion in zip(SOURCES, found, strict=True):
        new = torch.tensor([token.id for token in completion.tokens])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            target = torch.tensor([[BOS, *new[:-1]]])
            logits = whole(torch.tensor([ids_of(source)]), target)[0].float()
        own = logits.log_softmax(-1).gather(1, new.unsqueeze(1)).squeeze(1)
        assert [token.logprob for token in completion.tokens] == pytest.approx(
            own.tolist(), abs=0.1
        )


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ([], "the source has no tokens; give it some text"),
        ([3] * 15, "a source has 15 tokens, but the model reads 14 at most; give a shorter one"),
        ([12], "a source has ids outside the model's vocabulary of 12; use the model's own token"),
        ([-1], "a source has ids outside the model's vocabulary of 12; "),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(generator, source, line):
    with pytest.raises(ConfigError) as error:
        generator.generate_ids([[3], source], GREEDY)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)
    with pytest.raises(ConfigError) as error:
        beam_search(generator.model, [BOS], source=source, beams=2, max_new_tokens=3, eos_id=EOS)
    assert str(error.value).startswith(line)


def test_what_is_for_gpts_is_refused():
    with pytest.raises(ConfigError, match="'encoder' reads texts and writes none; give a GPT or"):
        Generator(Encoder(ModelConfig(**SHAPE), seed=0), LETTERS)
    with pytest.raises(ConfigError, match="a drafter is for GPTs, and this model has an encoder"):
        Generator(lively(), LETTERS, drafter=LookupDrafter(length=2))
    talking = Generator(lively(), LETTERS, chat_template=TEMPLATES["plain"])
    with pytest.raises(ConfigError, match="a conversation is for GPTs, and this model turns"):
        talking.chat([{"role": "user", "content": "abc"}])
