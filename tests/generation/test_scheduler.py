import gc
import math
import random
import threading
import time
from concurrent.futures import Future

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import ModelConfig, SamplingConfig
from gptlab.errors import ConfigError, GenerationError, QueueFullError, TokenizerError
from gptlab.generation import Generator, Scheduler
from gptlab.model import GPT
from gptlab.tokenizer import train_bpe

TOKENIZER = train_bpe(texts=["the quick brown fox, naïve 中文字 🙂 " * 5], vocab_size=280)
SEQ_LEN = 12
BROKEN = ord("~")
# Long enough for any machine, and short enough that a suite which hangs is seen to.
PATIENCE = 30
CONFIG = SamplingConfig(max_new_tokens=8, seed=1, ignore_eos=True)
PROMPTS = ["the", "quick brown", "fox, the quick brown fox", "naïve", "中文", "", "the quick"]


def lively(**changes):
    """A generator whose tokens depend on what it has read, as those of small weights do not."""
    shape = {"seq_len": SEQ_LEN, "embed_dim": 16, "num_layers": 2, "n_heads": 2, **changes}
    model = GPT(ModelConfig(vocab_size=TOKENIZER.vocab_size, **shape), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return Generator(model, TOKENIZER, compile="off")


def breakable():
    """A generator whose numbers break where it reads a tilde; it never writes one itself."""
    generator = lively()
    with torch.no_grad():
        generator.model.embedding.weight[BROKEN] = math.nan
        generator.model.lm_head.weight[BROKEN] = 0
    return generator


@pytest.fixture(scope="module")
def generator():
    return lively()


def run(scheduler, most=500):
    """Step by hand until nothing is left."""
    for _ in range(most):
        if not scheduler.step():
            return
    raise AssertionError("there is always work left")


def soon(work):
    """What `work` returns or raises, in a thread that can't hang the suite."""
    outcome = Future()

    def try_it():
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=try_it, daemon=True).start()
    return outcome.result(timeout=PATIENCE)


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def assert_as_alone(generator, request):
    """It has the text, the tokens and the end that its prompt has alone."""
    (alone,) = generator.complete([request.prompt], request.config)
    completion = request.result(timeout=0)
    assert completion.text == alone.text == "".join(request)
    assert [token.id for token in completion.tokens] == [token.id for token in alone.tokens]
    assert completion.ending == alone.ending
    assert request.state == "done"


def assert_nothing_runs():
    assert not [t for t in threading.enumerate() if t.name == "gptlab-scheduler"]


sampling = st.builds(
    SamplingConfig,
    max_new_tokens=st.integers(1, 20),
    temperature=st.sampled_from([0, 0.8, 1.5]),
    top_k=st.sampled_from([None, 5]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    seed=st.integers(0, 5),
    ignore_eos=st.booleans(),
    stop=st.sampled_from([(), ("e",), ("th", " q")]),
    overflow=st.sampled_from(["slide", "truncate"]),
)
arrivals = st.tuples(
    st.integers(0, 15), st.sampled_from(PROMPTS), sampling, st.none() | st.integers(0, 20)
)


@settings(max_examples=40, deadline=None)
@given(
    requests=st.lists(arrivals, min_size=1, max_size=9),
    slots=st.integers(1, 4),
    prefill_tokens=st.sampled_from([1, 8, 100]),
)
def test_a_request_gets_the_text_that_it_gets_alone(generator, requests, slots, prefill_tokens):
    scheduler = Scheduler(generator, slots=slots, prefill_tokens=prefill_tokens)
    submitted = []
    for step in range(600):
        for arrival, prompt, config, cancelled_at in requests:
            if arrival == step:
                submitted.append((scheduler.submit(prompt, config), cancelled_at))
        for request, cancelled_at in submitted:
            if cancelled_at == step:
                request.cancel()
        assert scheduler.stats.running <= slots
        if not scheduler.step() and len(submitted) == len(requests):
            break
    for request, _ in submitted:
        if request.state == "cancelled":
            whole = generator.generate(request.prompt, request.config)
            assert whole.startswith(request.result(0).text)
        else:
            assert_as_alone(generator, request)
    stats = scheduler.stats
    assert (stats.running, stats.waiting, stats.failed) == (0, 0, 0)
    assert stats.done + stats.cancelled == len(requests)


def test_first_come_first_served(generator):
    scheduler = Scheduler(generator, slots=2)
    lengths = [9, 2, 3, 1, 4, 1, 2]
    requests = [scheduler.submit("the", CONFIG.replace(max_new_tokens=n)) for n in lengths]
    started = []
    while scheduler.step():
        started += [r for r in requests if r.state != "waiting" and r not in started]
    assert started == requests
    assert all(request.state == "done" for request in requests)


def test_a_stream_of_short_requests_starves_no_long_one(generator):
    scheduler = Scheduler(generator, slots=2, prefill_tokens=4)
    long_prompt = scheduler.submit("fox, the quick brown fox, the quick", CONFIG)
    held = [scheduler.submit("the", CONFIG.replace(max_new_tokens=1))]
    steps = 0
    while not long_prompt.is_over:
        held += [scheduler.submit("fox", CONFIG.replace(max_new_tokens=1)) for _ in range(2)]
        scheduler.step()
        steps += 1
    assert steps == CONFIG.max_new_tokens


def test_slots_are_used_again_at_the_next_step(generator):
    scheduler = Scheduler(generator, slots=1)
    requests = [scheduler.submit("the", CONFIG.replace(max_new_tokens=1)) for _ in range(3)]
    states = []
    while scheduler.step():
        states.append([request.state for request in requests])
    assert states == [["done", "waiting", "waiting"], ["done", "done", "waiting"]]
    assert scheduler.stats == (0, 0, 3, 0, 0, 3, 3)


def test_prompts_are_read_within_a_budget(generator):
    scheduler = Scheduler(generator, slots=8, prefill_tokens=4)
    prompts = ["the", "fox", "the", "fox, the quick brown fox", "the", "fox"]
    lengths = [len(TOKENIZER.encode(prompt)) for prompt in prompts]
    assert lengths[3] > 4
    assert 2 * max(lengths[0], lengths[1]) <= 4
    requests = [scheduler.submit(prompt, CONFIG) for prompt in prompts]
    running = []
    for _ in range(3):
        scheduler.step()
        running.append([request.state == "running" for request in requests])
    assert [sum(states) for states in running] == [3, 4, 6]
    # Those that ran got a token at each step all the while.
    assert [request.new_tokens for request in requests] == [3, 3, 3, 2, 1, 1]


def test_the_same_prompts_are_read_once(generator):
    read = []
    hook = generator.model.norm.register_forward_hook(lambda _, __, out: read.append(len(out)))
    scheduler = Scheduler(generator)
    requests = [scheduler.submit("the", CONFIG.replace(seed=seed)) for seed in range(5)]
    scheduler.step()
    hook.remove()
    assert read == [1]
    run(scheduler)
    for request in requests:
        assert_as_alone(generator, request)
    assert len({request.result(0).text for request in requests}) > 1


def test_requests_that_differ_in_seed_and_length_are_drawn_together(generator, monkeypatch):
    drawn = []
    plain = torch.Tensor.cumsum
    monkeypatch.setattr(
        torch.Tensor, "cumsum", lambda *args, **kw: drawn.append(len(args[0])) or plain(*args, **kw)
    )
    scheduler = Scheduler(generator)
    configs = [CONFIG.replace(seed=n, max_new_tokens=5 + n, stop=(f"{n}",)) for n in range(4)]
    held = [scheduler.submit("the", config) for config in (*configs, CONFIG.replace(top_k=3))]
    scheduler.step()
    assert drawn == [4, 1]
    assert [request.new_tokens for request in held] == [1] * 5


def test_the_queue_is_bounded(generator):
    scheduler = Scheduler(generator, slots=1, queue_limit=2)
    first, second = scheduler.submit("the", CONFIG), scheduler.submit("fox", CONFIG)
    message = "2 requests are waiting, which is the queue_limit; try again later, or give"
    with pytest.raises(QueueFullError, match=message):
        scheduler.submit("quick", CONFIG)
    scheduler.step()
    third = scheduler.submit("quick", CONFIG)
    with pytest.raises(QueueFullError):
        scheduler.submit("brown", CONFIG)
    second.cancel()
    fourth = scheduler.submit("brown", CONFIG)
    run(scheduler)
    for request in (first, third, fourth):
        assert_as_alone(generator, request)
    assert scheduler.stats.cancelled == 1


@pytest.mark.parametrize("name", ["slots", "queue_limit", "prefill_tokens"])
def test_limits_are_positive(generator, name):
    with pytest.raises(ConfigError, match=f"{name} is 0; give at least 1"):
        Scheduler(generator, **{name: 0})


def test_what_cannot_be_read_raises_at_once(generator):
    scheduler = Scheduler(generator)
    with pytest.raises(ConfigError, match=r"exceed the model's seq_len of 12"):
        scheduler.submit("the", CONFIG.replace(overflow="error", max_new_tokens=50))
    assert not scheduler.step()


def test_memory_is_that_of_the_slots(generator):
    config = generator.model.config
    a_token = 2 * config.num_layers * config.kv_heads * config.head_dim * 4
    assert Scheduler(generator, slots=3).cache_bytes == 3 * SEQ_LEN * a_token


def test_times_and_counts(generator):
    scheduler = Scheduler(generator, slots=1)
    first, second = (scheduler.submit("the quick", CONFIG) for _ in range(2))
    assert second.times[1:] == (None, None, None)
    run(scheduler)
    for request in (first, second):
        assert list(request.times) == sorted(request.times)
    assert first.times.ended <= second.times.started
    assert first.prompt_tokens == len(TOKENIZER.encode("the quick"))
    assert first.new_tokens == CONFIG.max_new_tokens
    assert scheduler.stats.tokens == 2 * CONFIG.max_new_tokens


def test_pieces_come_as_they_are_made(generator):
    scheduler = Scheduler(generator)
    request = scheduler.submit("the", CONFIG)
    pieces, early = iter(request), []
    while scheduler.step():
        if len("".join(early)) < len("".join(request._pieces)):
            early.append(next(pieces))
    assert len(early) > 2
    assert "".join(early) + "".join(pieces) == generator.generate("the", CONFIG)


def test_stop_texts_across_tokens(generator):
    whole = generator.generate("the", CONFIG.replace(max_new_tokens=20))
    stops = [whole[start : start + 3] for start in range(3, 9)]
    scheduler = Scheduler(generator, slots=3)
    requests = [
        scheduler.submit("the", CONFIG.replace(max_new_tokens=20, stop=(stop,))) for stop in stops
    ]
    run(scheduler)
    for request, stop in zip(requests, stops, strict=True):
        assert_as_alone(generator, request)
        assert request.result(0).ending == "stop"
        assert request.result(0).text == whole[: whole.index(stop)]


def test_the_end_of_sequence_ends_one_request_alone(generator):
    bias = {TOKENIZER.eos_id: 1000.0}
    scheduler = Scheduler(generator)
    ending = scheduler.submit("the", CONFIG.replace(ignore_eos=False, logit_bias=bias))
    going_on = scheduler.submit("the", CONFIG)
    run(scheduler)
    assert ending.result(0) == generator.complete(["the"], ending.config)[0]
    assert ending.result(0).ending == "eos"
    assert (ending.result(0).text, ending.times.first_token) == ("", None)
    assert_as_alone(generator, going_on)


@pytest.mark.parametrize("overflow", ["slide", "truncate"])
def test_one_row_overflows_among_others(generator, overflow):
    scheduler = Scheduler(generator, slots=3)
    config = CONFIG.replace(overflow=overflow)
    requests = [
        scheduler.submit(prompt, config.replace(max_new_tokens=new))
        for prompt, new in (("the", 3), ("fox, the quick brown fox", 3 * SEQ_LEN), ("fox", 8))
    ]
    run(scheduler)
    for request in requests:
        assert_as_alone(generator, request)


def test_cancelling_frees_the_slot_at_the_next_step(generator):
    scheduler = Scheduler(generator, slots=1)
    first, second, third = (scheduler.submit(p, CONFIG) for p in ("the", "fox", "quick"))
    scheduler.step()
    scheduler.step()
    first.cancel()
    second.cancel()
    assert (first.state, second.state) == ("cancelled", "cancelled")
    scheduler.step()
    assert (third.state, third.new_tokens) == ("running", 1)
    text = first.result(0)
    assert (text.ending, len(text.tokens), text.text) == ("cancelled", 2, "".join(first))
    first.cancel()
    run(scheduler)
    third.cancel()
    assert_as_alone(generator, third)


def test_nothing_comes_after_a_cancellation_in_the_middle_of_a_step():
    generator = lively()
    scheduler = Scheduler(generator)
    request = scheduler.submit("the", CONFIG)
    scheduler.step()
    generator.model.norm.register_forward_hook(lambda *_: request.cancel())
    scheduler.step()
    assert (request.state, request.new_tokens) == ("cancelled", 1)
    assert not scheduler.step()


def test_leaving_a_request_cancels_it(generator):
    def reader():
        with scheduler.submit("the", CONFIG.replace(max_new_tokens=10**6)) as request:
            held.append(request)
            yield from request

    held = []
    with Scheduler(generator) as scheduler:
        pieces = reader()
        assert soon(lambda: next(pieces))
        pieces.close()
        assert held[0].state == "cancelled"
        wait_until(lambda: scheduler.stats.cancelled)
        with scheduler.submit("the", CONFIG) as request:
            soon(request.result)
    assert_as_alone(generator, request)


def test_what_nobody_holds_is_cancelled(generator):
    scheduler = Scheduler(generator)
    kept = scheduler.submit("the", CONFIG)
    dropped = scheduler.submit("the", CONFIG)
    scheduler.step()
    assert scheduler.stats.running == 2
    del dropped
    gc.collect()
    scheduler.step()
    assert (scheduler.stats.running, scheduler.stats.cancelled) == (1, 1)
    run(scheduler)
    assert_as_alone(generator, kept)


def test_broken_numbers_fail_their_request_alone():
    generator = breakable()
    scheduler = Scheduler(generator, slots=4)
    prompts = ["the", "~ quick", "fox", "~", "quick brown"]
    requests = [scheduler.submit(prompt, CONFIG) for prompt in prompts]
    run(scheduler)
    for request in requests:
        if "~" not in request.prompt:
            assert_as_alone(generator, request)
            continue
        assert request.state == "failed"
        with pytest.raises(GenerationError, match="largest of the model's logits is nan"):
            request.result(0)
        with pytest.raises(GenerationError, match="largest of the model's logits is nan"):
            list(request)
    assert scheduler.stats[2:5] == (3, 0, 2)


@pytest.mark.parametrize("broken", ["~", "~~~~~~~~~~"])
def test_broken_numbers_are_not_left_to_the_next_in_the_slot(broken):
    generator = breakable()
    scheduler = Scheduler(generator, slots=2)
    requests = [scheduler.submit("fox, the quick brown", CONFIG), scheduler.submit(broken, CONFIG)]
    scheduler.step()
    assert requests[1].state == "failed"
    requests[1:] = [scheduler.submit("the", CONFIG)]
    run(scheduler)
    for request in requests:
        assert_as_alone(generator, request)


def test_nothing_left_to_draw_fails_its_request_alone(generator):
    everything = dict.fromkeys(range(TOKENIZER.vocab_size), -1e39)
    scheduler = Scheduler(generator)
    hopeless = scheduler.submit("the", CONFIG.replace(logit_bias=everything, temperature=0))
    unknown = scheduler.submit("the", CONFIG.replace(logit_bias={10_000: 1.0}))
    sound = scheduler.submit("the", CONFIG)
    run(scheduler)
    with pytest.raises(GenerationError, match="no token is left to draw"):
        hopeless.result(0)
    with pytest.raises(ConfigError, match="10000"):
        unknown.result(0)
    assert_as_alone(generator, sound)


def test_constraints_are_kept_in_company(generator):
    pytest.importorskip("llguidance")
    scheduler = Scheduler(generator, slots=3)
    configs = [
        CONFIG.replace(regex="(quick|brown)+", max_new_tokens=20),
        CONFIG,
        CONFIG.replace(valid_python=True, seed=5),
        CONFIG.replace(regex="[0-9]{3}"),
    ]
    requests = [scheduler.submit("fox", config) for config in configs]
    run(scheduler)
    for request in requests:
        assert_as_alone(generator, request)
    assert requests[3].result(0).text.isdigit()
    with pytest.raises(ConfigError, match="no beginning of a Python program"):
        scheduler.submit("the quick", CONFIG.replace(valid_python=True))


def test_a_constraint_that_cannot_go_on_fails_its_request_alone(generator, monkeypatch):
    pytest.importorskip("llguidance")

    def fail(*_):
        raise ConfigError("regex can't go on")

    scheduler = Scheduler(generator)
    sound, failing = (scheduler.submit("the", c) for c in (CONFIG, CONFIG.replace(regex="[a-z]*")))
    scheduler.step()
    monkeypatch.setattr("gptlab.generation.grammar.GrammarConstraint.advance", fail)
    scheduler.step()
    monkeypatch.undo()
    run(scheduler)
    with pytest.raises(ConfigError, match="regex can't go on"):
        failing.result(0)
    assert_as_alone(generator, sound)


def test_a_token_without_text_fails_its_request_alone():
    model = lively().model

    class Narrow:
        vocab_size = TOKENIZER.vocab_size
        bos_id = eos_id = None
        encode = staticmethod(TOKENIZER.encode)

        @staticmethod
        def decode(ids):
            if 255 in ids:
                raise TokenizerError("the id 255 has no text")
            return TOKENIZER.decode(ids)

    generator = Generator(model, Narrow(), compile="off")
    scheduler = Scheduler(generator)
    failing = scheduler.submit("the", CONFIG.replace(logit_bias={255: 1000.0}))
    sound = scheduler.submit("the", CONFIG.replace(logit_bias={255: -1000.0}))
    run(scheduler)
    with pytest.raises(TokenizerError, match="the id 255 has no text"):
        failing.result(0)
    assert_as_alone(generator, sound)


def test_log_probabilities_come_with_the_tokens(generator):
    config = CONFIG.replace(top_logprobs=2)
    scheduler = Scheduler(generator)
    request, _ = scheduler.submit("the", config), scheduler.submit("fox", CONFIG)
    run(scheduler)
    (alone,) = generator.complete(["the"], config)
    for token, expected in zip(request.result(0).tokens, alone.tokens, strict=True):
        assert token.logprob == pytest.approx(expected.logprob, abs=1e-5)
        assert [pair[0] for pair in token.top] == [pair[0] for pair in expected.top]


def test_waiting_in_vain(generator):
    request = Scheduler(generator).submit("the", CONFIG)
    with pytest.raises(TimeoutError, match=r"is waiting after 0\.01 s; wait longer, or cancel it"):
        request.result(timeout=0.01)


def test_many_threads_submit(generator):
    outcomes = []
    with Scheduler(generator, slots=3, queue_limit=100) as scheduler:

        def client(number):
            draw = random.Random(number)
            for _ in range(4):
                config = CONFIG.replace(
                    seed=draw.randrange(99), max_new_tokens=draw.randint(1, 2 * SEQ_LEN)
                )
                request = scheduler.submit(draw.choice(PROMPTS), config)
                text = "".join(request)
                outcomes.append((request, text))

        clients = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(8)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(PATIENCE)
    assert len(outcomes) == 32
    for request, text in outcomes:
        assert_as_alone(generator, request)
        assert text == request.result(0).text
    assert scheduler.stats.done == 32
    assert_nothing_runs()


def test_cancelling_from_another_thread(generator):
    with Scheduler(generator) as scheduler:
        request = scheduler.submit("the", CONFIG.replace(max_new_tokens=10**6))
        threading.Timer(0.02, request.cancel).start()
        text = soon(lambda: "".join(request))
        assert request.state == "cancelled"
        assert request.result(0).text == text
    assert_nothing_runs()


def test_closing_finishes_what_is_left(generator):
    scheduler = Scheduler(generator, slots=2)
    scheduler.start()
    scheduler.start()
    requests = [scheduler.submit(prompt, CONFIG) for prompt in PROMPTS]
    soon(scheduler.close)
    for request in requests:
        assert_as_alone(generator, request)
    with pytest.raises(GenerationError, match="the scheduler is closed; make another one"):
        scheduler.submit("the", CONFIG)
    with pytest.raises(GenerationError, match="the scheduler is closed; make another one"):
        scheduler.start()
    soon(scheduler.close)
    assert_nothing_runs()


def test_closing_may_cancel_what_is_left(generator):
    scheduler = Scheduler(generator, slots=2)
    scheduler.start()
    endless = CONFIG.replace(max_new_tokens=10**6)
    requests = [scheduler.submit(prompt, endless) for prompt in PROMPTS]
    wait_until(lambda: requests[0].new_tokens)
    readers = [Future() for _ in requests]
    for request, reader in zip(requests, readers, strict=True):
        threading.Thread(
            target=lambda r=request, f=reader: f.set_result("".join(r)), daemon=True
        ).start()
    soon(lambda: scheduler.close(finish=False))
    assert [r.result(PATIENCE) for r in readers] == [r.result(0).text for r in requests]
    assert {request.state for request in requests} == {"cancelled"}
    assert (scheduler.stats.running, scheduler.stats.waiting) == (0, 0)
    assert scheduler.stats.cancelled == len(requests)
    assert_nothing_runs()


def test_closing_without_a_thread(generator):
    scheduler = Scheduler(generator)
    request = scheduler.submit("the", CONFIG)
    soon(scheduler.close)
    assert_as_alone(generator, request)
    other = Scheduler(generator)
    request = other.submit("the", CONFIG)
    other.step()
    soon(lambda: other.close(finish=False))
    assert request.state == "cancelled"
    assert other.stats.running == 0


def test_an_error_in_the_block_cancels_what_is_left(generator):
    def work():
        with Scheduler(generator) as scheduler:
            held.append(scheduler.submit("the", CONFIG.replace(max_new_tokens=10**6)))
            raise KeyError("mine")

    held = []
    with pytest.raises(KeyError, match="mine"):
        soon(work)
    assert held[0].state == "cancelled"
    assert_nothing_runs()


def test_serving_in_a_thread_of_ones_own(generator):
    scheduler = Scheduler(generator)
    server = threading.Thread(target=scheduler.serve_forever, daemon=True)
    server.start()
    request = scheduler.submit("the", CONFIG)
    soon(request.result)
    soon(scheduler.close)
    server.join(PATIENCE)
    assert not server.is_alive()
    assert_as_alone(generator, request)


class MemoryRanOutError(RuntimeError):
    pass


def failing_generator():
    """A generator that breaks down while it reads its twentieth token or so."""
    generator, calls = lively(), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 20:
            raise MemoryRanOutError("out of memory\nand a long story")

    generator.model.norm.register_forward_hook(fail)
    return generator


MESSAGE = "the scheduler has stopped by MemoryRanOutError: out of memory; make another one"


def test_an_exception_in_a_thread_reaches_all():
    scheduler = Scheduler(failing_generator(), slots=2)
    endless = CONFIG.replace(max_new_tokens=10**6)
    requests = [scheduler.submit(prompt, endless) for prompt in PROMPTS]
    scheduler.start()
    for request in requests:
        with pytest.raises(GenerationError, match=MESSAGE) as caught:
            soon(request.result)
        assert isinstance(caught.value.__cause__, MemoryRanOutError)
        with pytest.raises(GenerationError, match=MESSAGE):
            soon(lambda request=request: list(request))
        assert request.state == "failed"
    with pytest.raises(GenerationError, match=MESSAGE):
        scheduler.submit("the", CONFIG)
    soon(scheduler.close)
    assert scheduler.stats.failed == len(requests)
    assert_nothing_runs()


def test_an_exception_in_a_step_by_hand_is_raised():
    scheduler = Scheduler(failing_generator(), slots=2)
    request = scheduler.submit("the", CONFIG.replace(max_new_tokens=100))
    with pytest.raises(MemoryRanOutError):
        run(scheduler)
    with pytest.raises(GenerationError, match=MESSAGE):
        request.result(0)
    assert not scheduler.step()
    soon(scheduler.close)


def test_a_thread_computes_in_the_precision_of_whoever_made_it(generator):
    config = CONFIG.replace(temperature=0)
    with torch.autocast("cpu", torch.bfloat16):
        alone = generator.generate("the", config)
        with Scheduler(generator) as scheduler:
            assert soon(scheduler.submit("the", config).result).text == alone
    assert scheduler.cache_bytes == Scheduler(generator).cache_bytes // 2


def test_an_idle_scheduler_sleeps_and_wakes(generator):
    with Scheduler(generator) as scheduler:
        for _ in range(3):
            request = scheduler.submit("the", CONFIG)
            soon(request.result)
            wait_until(lambda: not scheduler.stats.running)
            steps = scheduler.stats.steps
            time.sleep(0.02)
            assert scheduler.stats.steps == steps
            assert_as_alone(generator, request)
