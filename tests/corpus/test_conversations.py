"""Rows of JSON lines to conversations, and what is wrong with those that are none."""

import gzip
import json

import pytest

from gptlab.corpus import Document, open_corpus
from gptlab.corpus.conversations import Message, contents, from_text, messages_of, to_text
from gptlab.errors import DataError

GOOD = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
TALK = (Message("user", "Hi"), Message("assistant", "Hello"))


def written(path, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read(path, **options):
    corpus = open_corpus(path, field="messages", conversations=True, **options)
    return [from_text(text) for text in corpus.documents()]


def test_a_text_and_its_messages():
    talk = (Message("system", "é\n"), *TALK, Message("user", '"\ud800'))
    assert from_text(to_text(talk)) == talk
    assert contents(to_text(TALK)) == "Hi\nHello"


def test_all_forms_of_rows(tmp_path):
    file = written(
        tmp_path / "a.jsonl",
        {"messages": [{"role": "system", "content": ""}, *GOOD], "id": 3},
        {"prompt": "Hi", "response": "Hello"},
        {"instruction": "Say it.", "output": "it"},
        "",
        {"instruction": "Translate.", "input": "bonjour", "output": "hello"},
    )
    assert read(file) == [
        (Message("system", ""), *TALK),
        TALK,
        (Message("user", "Say it."), Message("assistant", "it")),
        (Message("user", "Translate.\n\nbonjour"), Message("assistant", "hello")),
    ]


def test_another_field(tmp_path):
    file = written(tmp_path / "a.jsonl", {"talk": GOOD})
    corpus = open_corpus(file, field="talk", conversations=True)
    assert [from_text(text) for text in corpus.documents()] == [TALK]


def test_compressed_and_in_folders(tmp_path):
    written(tmp_path / "a.jsonl", {"messages": GOOD})
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(json.dumps({"messages": GOOD}).encode()))
    (tmp_path / "read.me").write_text("no conversation")
    corpus = open_corpus(tmp_path, field="messages", conversations=True)
    assert len(list(corpus.documents())) == 2
    assert corpus.skipped == 1


@pytest.mark.parametrize(
    ("row", "message", "reason"),
    [
        ({"messages": []}, "messages has no messages; write some, or remove it", "no messages"),
        ({"messages": "Hi"}, "messages is no list of messages but str; write it as", "no messages"),
        ({"messages": ["Hi"]}, "messages, message 1 is no object with a role", "no messages"),
        ({"messages": [{"role": "user"}]}, "message 1 is no object with a role", "no messages"),
        (
            {"messages": [*GOOD, {"role": "bot", "content": "x"}]},
            "messages, message 3 has the role 'bot'; write one of system, user, assistant",
            "unknown role",
        ),
        (
            {"messages": [{"role": "user", "content": None}, GOOD[1]]},
            "message 1 has a content that is no string but NoneType; write a string",
            "not a string",
        ),
        (
            {"messages": [*GOOD, {"role": "system", "content": "x"}]},
            "message 3 is the system's, but only the first may be; move or remove it",
            "system message not first",
        ),
        ({"messages": GOOD[:1]}, "has no assistant turn, so that nothing", "no assistant turn"),
        ({"text": "x"}, r"has no conversation, only \['text'\]; it takes", "no such field"),
        ({"prompt": "x", "response": 3}, "field 'response' is no string but int", "not a string"),
        (
            {"instruction": "x", "input": 3, "output": "x"},
            "field 'input' is no string but int",
            "not a string",
        ),
        ("[1]", "is no JSON object", "broken line"),
        ('{"prompt": "\\ud800", "response": "x"}', "half a surrogate pair", "half a surrogate"),
    ],
)
def test_a_row_that_is_no_conversation_is_named(tmp_path, row, message, reason):
    file = written(tmp_path / "a.jsonl", {"messages": GOOD}, row, {"messages": GOOD})
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2.*{message}"):
        read(file)
    corpus = open_corpus(file, field="messages", conversations=True)
    kinds = list(corpus.read())
    assert [isinstance(document, Document) for document in kinds] == [True, False, True]
    assert kinds[1].reason.startswith(reason)


def test_half_a_surrogate_can_be_replaced(tmp_path):
    file = written(tmp_path / "a.jsonl", '{"prompt": "\\ud800", "response": "x"}')
    assert read(file, errors="replace") == [(Message("user", "\ufffd"), Message("assistant", "x"))]


def test_what_holds_no_conversations(tmp_path):
    (tmp_path / "a.txt").write_text("Hi")
    with pytest.raises(DataError, match=r"a\.txt holds no conversations, which are lines of JSON"):
        open_corpus(tmp_path / "a.txt", conversations=True)
    with pytest.raises(DataError, match="holds no conversations"):
        open_corpus(tmp_path, conversations=True)


def test_conversations_have_a_fingerprint_of_their_own(tmp_path):
    file = written(tmp_path / "a.jsonl", {"messages": GOOD})
    plain = open_corpus(file, field="messages")
    assert (
        plain.fingerprint() != open_corpus(file, field="messages", conversations=True).fingerprint()
    )


def test_messages_without_a_place_are_named_by_themselves():
    with pytest.raises(DataError, match=r"^messages, message 1 has the role 'me'"):
        messages_of([{"role": "me", "content": ""}])
