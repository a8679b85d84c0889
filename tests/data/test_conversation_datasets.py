"""Datasets of conversations: prepared, cached, verified, and taken up again."""

import json

import numpy as np
import pytest

from gptlab.config import PrepareConfig
from gptlab.corpus import open_corpus
from gptlab.corpus.conversations import messages_of
from gptlab.data import TokenDataset, prepare_cached
from gptlab.data.conversations import Chat
from gptlab.data.manifest import MANIFEST
from gptlab.data.preparation import pipeline, prepare
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer import BPETokenizer, load_tokenizer
from gptlab.tokenizer.chat import TEMPLATES, ChatEncoder, with_template_tokens

CHATML = TEMPLATES["chatml"]
ROWS = [
    [{"role": "user", "content": f"{n}?" * n}, {"role": "assistant", "content": f"say {n}!"}]
    for n in range(1, 9)
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "talk.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in ROWS))
    return path


@pytest.fixture
def made(file):
    def make(output="ds", **settings):
        usual = {"chat_template": "chatml", "seq_len": 64, "quiet": True, "processes": 1}
        config = PrepareConfig(sources=(str(file),), output=output, **{**usual, **settings})
        return prepare(config, tokenizer=BPETokenizer([]))

    return make


def expected():
    encoder = ChatEncoder(CHATML, with_template_tokens(BPETokenizer([]), CHATML))
    rendered = encoder.render_all([messages_of(row) for row in ROWS])
    return np.concatenate([r.ids for r in rendered]), np.concatenate([r.mask for r in rendered])


def assert_as_rendered(dataset):
    ids, mask = expected()
    assert dataset.read(0, len(dataset)).tolist() == ids.tolist()
    assert dataset.read_marks([0], len(dataset))[0].tolist() == mask.tolist()
    assert dataset.num_documents == len(ROWS)
    assert dataset.chat_template == CHATML
    assert dataset.is_masked


def test_a_dataset_has_the_rendered_conversations_and_their_masks(made):
    result = made(shard_tokens=50)
    dataset = TokenDataset(result.path)
    assert_as_rendered(dataset)
    dataset.verify()
    assert len(dataset.manifest["shards"]) > 2
    packing = result.report.conversations["train"]
    assert packing.targets == expected()[1].sum() == dataset.manifest["answer_tokens"]
    assert result.report.windows["train"] == packing.windows
    saved = load_tokenizer(str(dataset.tokenizer))
    assert saved.encode("<|im_end|>", allowed_special="all") == [saved.vocab_size - 1]


def test_the_cache_has_the_same(file, tmp_path):
    corpus = open_corpus(file, field="messages", conversations=True)
    tokenizer = with_template_tokens(BPETokenizer([]), CHATML)

    def cached(**changes):
        chat = Chat(**{"template": CHATML, "seq_len": 64, **changes})
        return prepare_cached(corpus, tokenizer, cache=tmp_path / "cache", chat=chat)

    dataset = cached()
    assert_as_rendered(dataset)
    dataset.verify()
    assert dataset.windows.length == 64
    assert cached().folder == dataset.folder
    plain = TEMPLATES["plain"]
    assert len({dataset.folder, cached(seq_len=32).folder, cached(template=plain).folder}) == 3


def test_what_is_decoded_of_the_masked_targets_is_what_the_assistant_says(made):
    dataset = TokenDataset(made().path)
    tokenizer = load_tokenizer(str(dataset.tokenizer))
    ids, marks = dataset.read(0, len(dataset)), dataset.read_marks([0], len(dataset))[0]
    said = "".join(f"{row[1]['content']}<|im_end|>" for row in ROWS)
    assert tokenizer.decode(ids[marks == 1].tolist()) == said


def test_a_changed_mask_is_found(made):
    dataset = TokenDataset(made().path)
    path = dataset.folder / "mask-00000.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"mask-00000\.bin is missing or damaged: its checksum"):
        TokenDataset(dataset.folder).verify()
    path.unlink()
    with pytest.raises(DataError, match=r"mask-00000\.bin is missing or damaged: 0 bytes"):
        TokenDataset(dataset.folder)


def test_the_mask_is_part_of_what_a_dataset_is_known_by(made):
    dataset = TokenDataset(made().path)
    before = dataset.fingerprint()
    manifest = json.loads((dataset.folder / MANIFEST).read_text())
    manifest["shards"][0]["mask"]["sha256"] = "0" * 64
    dataset.manifest = manifest
    assert dataset.fingerprint() != before


@pytest.mark.parametrize(
    "damage",
    [
        lambda manifest: manifest.pop("chat_template"),
        lambda manifest: manifest["chat_template"].pop("end"),
        lambda manifest: manifest["shards"][0].pop("mask"),
        lambda manifest: manifest["shards"][0].update(mask=3),
        lambda manifest: manifest["windows"].update(mode="chunk"),
    ],
)
def test_a_manifest_that_does_not_fit_its_mask(made, damage):
    path = made().path / MANIFEST
    manifest = json.loads(path.read_text())
    damage(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="is damaged; prepare the data again"):
        TokenDataset(path.parent)


def test_a_preparation_that_is_cut_off_goes_on_to_the_same_bytes(made, monkeypatch):
    straight = made("straight", shard_tokens=40, dev_size=0.3).path
    plain = pipeline.Journal.note
    monkeypatch.setattr(pipeline.Journal, "is_due", property(lambda _self: True))

    def note(self, place, state):
        plain(self, place, state)
        if state["counts"]["documents"] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(pipeline.Journal, "note", note)
    with pytest.raises(KeyboardInterrupt):
        made("cut", shard_tokens=40, dev_size=0.3)
    monkeypatch.setattr(pipeline.Journal, "note", plain)
    result = made("cut", shard_tokens=40, dev_size=0.3)
    assert result.resumed
    for one in sorted(straight.rglob("*.bin")):
        other = result.path / one.relative_to(straight)
        assert other.read_bytes() == one.read_bytes(), one
    assert (
        result.report.conversations
        == made("again", shard_tokens=40, dev_size=0.3).report.conversations
    )


def test_bad_rows_are_left_out_and_named_and_filters_see_what_is_said(made, file):
    with file.open("a") as stream:
        stream.write('{"messages": []}\n{"prompt": "x", "response": "said"}\n')
        stream.write(json.dumps({"messages": ROWS[0]}) + "\n")
    result = made(max_characters=15, drop_duplicates=True)
    long = sum(len("\n".join(one["content"] for one in row)) > 15 for row in ROWS)
    assert 0 < long < len(ROWS)
    assert sum(result.report.left_out.values()) == long + 2
    assert result.report.documents["train"] == len(ROWS) - long + 1
    rejects = (result.path / "rejects.jsonl").read_text()
    assert "line 9: messages has no messages" in rejects


def test_settings_that_do_not_fit(made):
    with pytest.raises(ConfigError, match="mode is 'chunk', but mode 'conversations' and --chat"):
        PrepareConfig(chat_template="chatml", mode="chunk")
    with pytest.raises(ConfigError, match=r"mode is 'conversations', but .* go together"):
        PrepareConfig(mode="conversations")
    assert PrepareConfig(chat_template="chatml").field == "messages"
    assert PrepareConfig(chat_template="chatml", field="talk").field == "talk"
    with pytest.raises(ConfigError, match="there is no chat template 'chatlm'"):
        made(chat_template="chatlm")
