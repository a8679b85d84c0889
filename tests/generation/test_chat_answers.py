"""What is read of a conversation, and what of an answer is text."""

import pytest

import gptlab
from gptlab.corpus.conversations import Message
from gptlab.errors import ConfigError, DataError
from gptlab.generation.chat import answer_text, fitted, open_messages
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.chat import TEMPLATES, ChatEncoder, with_template_tokens

PLAIN, CHATML = TEMPLATES["plain"], TEMPLATES["chatml"]
LLAMA2 = TEMPLATES["llama2"]
ENCODER = ChatEncoder(PLAIN, BPETokenizer([]))

SYSTEM = Message("system", "be brief")
TURNS = tuple(
    message
    for number in range(4)
    for message in (Message("user", f"q{number}"), Message("assistant", f"a{number}"))
)
ASKED = (SYSTEM, *TURNS, Message("user", "last"))


def test_all_is_kept_where_it_fits():
    ids, kept = fitted(ASKED, ENCODER, room=1000)
    assert kept == ASKED
    assert ids == ENCODER.prompt(ASKED)


@pytest.mark.parametrize("system", [True, False])
def test_the_oldest_turns_go_first_and_the_system_stays(system):
    asked = ASKED if system else ASKED[1:]
    start = 1 if system else 0
    for dropped in range(5):
        expected = asked[:start] + asked[start + 2 * dropped :]
        needed = len(ENCODER.prompt(expected))
        ids, kept = fitted(asked, ENCODER, room=needed)
        assert kept == expected
        assert ids == ENCODER.prompt(kept)
        if dropped < 4:
            assert len(fitted(asked, ENCODER, room=needed - 1)[1]) == len(expected) - 2
    # The last question stays, whatever its length.
    assert fitted(asked, ENCODER, room=-5)[1] == expected


@pytest.mark.parametrize("cut", [1, 2, 100])
@pytest.mark.parametrize(
    ("template", "written", "text"),
    [
        (PLAIN, " Hi there", "Hi there"),
        (PLAIN, "Hi", "Hi"),
        (PLAIN, "  Hi ", " Hi "),
        (PLAIN, " ", ""),
        (PLAIN, "", ""),
        (LLAMA2, " Hi you ", "Hi you"),
        (LLAMA2, " Hi", "Hi"),
        (CHATML, " Hi ", " Hi "),
    ],
)
def test_blanks_of_the_template_are_no_answer(template, written, text, cut):
    pieces = [written[place : place + cut] for place in range(0, len(written), cut)]
    assert "".join(answer_text(pieces, template)) == text


def test_messages_that_can_not_be_answered():
    with pytest.raises(ConfigError, match="the last message is the assistant's, so there is noth"):
        open_messages(TURNS)
    with pytest.raises(ConfigError, match="the last message is the system's"):
        open_messages([SYSTEM])
    with pytest.raises(DataError, match="messages has no messages"):
        open_messages([])
    with pytest.raises(DataError, match="message 1 has the role 'me'"):
        open_messages([{"role": "me", "content": "x"}])


def generator(template, **changes):
    tokenizer = with_template_tokens(BPETokenizer([]), CHATML)
    shape = {"seq_len": 48, "embed_dim": 16, "num_layers": 1, "n_heads": 2, **changes}
    model = gptlab.GPT(gptlab.ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=0)
    return gptlab.Generator(model, tokenizer, chat_template=template)


def test_an_answer_is_what_follows_the_prompt_up_to_the_end_token():
    talker = generator(CHATML)
    messages = [{"role": "user", "content": "Hi"}]
    config = gptlab.SamplingConfig(max_new_tokens=12, seed=3)
    encoder = talker.chat_encoder()
    ids = encoder.prompt((Message("user", "Hi"),))
    expected = talker.tokenizer.decode(talker.generate_ids([ids], config)[0])
    assert talker.chat(messages, config) == expected
    ending = gptlab.SamplingConfig(max_new_tokens=12, logit_bias={encoder.end_id: 100.0})
    assert talker.chat(messages, ending) == ""


def test_a_long_conversation_is_read_without_its_oldest_turns():
    talker = generator(PLAIN)
    config = gptlab.SamplingConfig(max_new_tokens=8, temperature=0)
    _, kept = fitted(ASKED, talker.chat_encoder(), room=40)
    assert 2 <= len(kept) < len(ASKED)
    assert talker.chat(ASKED, config) == talker.chat(kept, config)


def test_without_a_template_there_is_no_chat():
    with pytest.raises(ConfigError, match="the model has no chat template; name the one it was tr"):
        generator(None).chat([{"role": "user", "content": "Hi"}])
