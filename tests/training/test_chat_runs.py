"""Training on conversations: the loss of what the assistant says, and of nothing else."""

import json

import numpy as np
import pytest
import torch
from gradients import assert_parts_give_the_same

import gptlab
from gptlab.config import ModelConfig, TrainConfig
from gptlab.corpus import open_corpus
from gptlab.corpus.conversations import messages_of
from gptlab.data import TokenDataset, WindowSampler, prepare_cached
from gptlab.data.conversations import Chat
from gptlab.errors import ConfigError, DataError
from gptlab.model import GPT
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.chat import TEMPLATES, ChatEncoder, template_in, with_template_tokens
from gptlab.training import train
from gptlab.training.evaluate import evaluate
from gptlab.training.inputs import load_inputs, measured
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import weighted_sum
from gptlab.training.precision import choose_arithmetic

pytestmark = pytest.mark.usefixtures("without_plots")

CPU = choose_arithmetic("cpu", "fp32")
CHATML = TEMPLATES["chatml"]
TOKENIZER = with_template_tokens(BPETokenizer([]), CHATML)
LENGTH = 64


def talk(question, answer, *more):
    rows = [question, answer, *more]
    roles = ["user", "assistant"] * len(rows)
    return [{"role": role, "content": said} for role, said in zip(roles, rows, strict=False)]


TALKS = [
    talk("a?", "b"),
    talk("what is it", "it is 7", "and?", "no"),
    talk("", "x"),
    talk("é" * 9, ""),
    [{"role": "system", "content": "s"}, *talk("hm", "yes!")],
    talk("q" * 20, "z" * 5),
]


def written(path, talks):
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in talks))
    return path


@pytest.fixture
def dataset(tmp_path):
    corpus = open_corpus(
        written(tmp_path / "talk.jsonl", TALKS), field="messages", conversations=True
    )
    return prepare_cached(corpus, TOKENIZER, cache=tmp_path / "cache", chat=Chat(CHATML, LENGTH))


def make_model(**changes):
    shape = {"seq_len": LENGTH, "embed_dim": 16, "num_layers": 2, "n_heads": 2}
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, **{**shape, **changes})
    return GPT(config, seed=1).double().eval()


def naive_loss(model):
    """Nats of the assistant's tokens, a conversation a row and a token at a time; how many."""
    encoder = ChatEncoder(CHATML, TOKENIZER)
    nats, count = 0.0, 0
    for rows in TALKS:
        ids, mask = encoder.render(messages_of(rows))
        assert len(ids) <= LENGTH + 1
        with torch.no_grad():
            log_p = model(torch.tensor(ids[None, :-1].astype(np.int64)))[0].log_softmax(-1)
        for place in range(1, len(ids)):
            if mask[place]:
                nats -= log_p[place - 1, int(ids[place])].item()
                count += 1
    return nats, count


@pytest.mark.parametrize("positions", ["rope", "learned"])
def test_the_packed_loss_is_that_of_each_conversation_alone(dataset, positions):
    model = make_model(positions=positions)
    sampler = WindowSampler(dataset, seq_len=LENGTH, batch_size=2, seed=3, shuffle=True)
    assert 1 < sampler.num_windows < len(TALKS)
    batch = DeviceBatch.of(sampler.rows(range(sampler.num_windows)))
    with torch.no_grad():
        logits = model(batch.inputs, documents=batch.documents, positions=batch.positions)
    log_p = logits.log_softmax(-1).gather(-1, batch.targets[..., None])[..., 0]
    packed = -(log_p * batch.weights.double()).sum().item()
    nats, count = naive_loss(model)
    assert batch.weights.sum().item() == count
    assert packed == pytest.approx(nats, rel=1e-12)
    # And the loop's own sums say so in their precision.
    float_model = model.float()
    found = evaluate(float_model, dataset, batch_size=2, arithmetic=CPU)
    assert found.tokens == count
    assert found.loss == pytest.approx(nats / count, rel=1e-6)


def test_parts_of_a_batch_add_up_to_the_whole(dataset):
    sampler = WindowSampler(dataset, seq_len=LENGTH, batch_size=2, seed=0, shuffle=False)
    whole = DeviceBatch.of(sampler.rows(range(sampler.num_windows)))
    losses = torch.randn(whole.targets.shape)
    total, weight = weighted_sum(losses, whole.weights)
    parts = [weighted_sum(losses[i], whole.weights[i]) for i in range(sampler.num_windows)]
    assert sum(part[1] for part in parts) == weight
    assert sum(part[0] for part in parts).item() == pytest.approx(total.item(), rel=1e-6)


def test_a_changed_conversation_moves_no_others_logits(dataset):
    model = make_model()
    sampler = WindowSampler(dataset, seq_len=LENGTH, batch_size=1, seed=0, shuffle=False)
    batch = DeviceBatch.of(sampler.rows(range(sampler.num_windows)))
    row = next(row for row in range(sampler.num_windows) if batch.documents[row].max() >= 1)
    first = batch.documents[row] == 0
    changed = batch.inputs.clone()
    changed[row, first] = (changed[row, first] + 1) % 256
    options = {"documents": batch.documents, "positions": batch.positions}
    with torch.no_grad():
        before = model(batch.inputs, **options)[row]
        after = model(changed, **options)[row]
    assert torch.equal(before[~first], after[~first])
    assert not torch.equal(before[first], after[first])


def test_bits_per_byte_are_of_what_the_assistant_says(dataset):
    text = measured(dataset, TOKENIZER)
    answers = [row["content"] for rows in TALKS for row in rows if row["role"] == "assistant"]
    assert text.target_characters == len("".join(answers))
    assert text.target_bytes == len("".join(answers).encode())
    assert text.num_targets == naive_loss(make_model())[1]


@pytest.fixture
def chatty(tiny, tmp_path):
    """Settings of a tiny run on two conversations, with changes."""

    def make(**changes):
        file = written(tmp_path / "two.jsonl", [talk("ping", "pong!"), talk("who", "me\nand you")])
        usual = {
            "train_data": str(file),
            "eval_data": str(file),
            "chat_template": "chatml",
            "vocab_size": 300,
            "seq_len": 48,
            "batch_size": 2,
            "learning_rate": 1e-2,
        }
        return tiny(**{**usual, **changes})

    return make


def test_two_conversations_are_learned_and_answered_with_exactly_what_was_taught(chatty):
    result = train(chatty(max_steps=150, embed_dim=32, num_layers=2, eval_steps=50))
    generator = gptlab.Generator.load(result.path)
    greedy = gptlab.SamplingConfig(temperature=0, max_new_tokens=20)
    for question, answer in (("ping", "pong!"), ("who", "me\nand you")):
        messages = [{"role": "user", "content": question}]
        assert generator.chat(messages, greedy) == answer
        assert "".join(generator.stream_chat(messages, greedy)) == answer
    assert template_in(result.path / "last-150") == CHATML
    assert generator.chat_template == CHATML


def test_a_run_that_is_resumed_gives_the_same_bytes(chatty):
    changes = {"schedule": "constant", "warmup_steps": 2, "dropout": 0.1, "eval_strategy": "no"}
    straight = train(chatty(max_steps=8, experiment_name="straight", **changes)).path
    train(chatty(max_steps=4, experiment_name="cut", **changes))
    cut = train(chatty(max_steps=8, experiment_name="cut", resume=True, **changes)).path
    one, other = (run / "last-8" / "model.safetensors" for run in (straight, cut))
    assert one.read_bytes() == other.read_bytes()


def test_a_sample_goes_on_from_the_ids_that_were_read(chatty, monkeypatch):
    prompts = []
    plain = gptlab.Generator.make_rows

    def kept(self, rows, config, **changes):
        prompts.extend(map(list, rows))
        return plain(self, rows, config, **changes)

    monkeypatch.setattr(gptlab.Generator, "make_rows", kept)
    path = train(chatty(max_steps=1)).path
    tokenizer = gptlab.load(path)[1]
    ids, _ = ChatEncoder(CHATML, tokenizer).render(messages_of(talk("ping", "pong!")))
    assert prompts == [ids[:8].tolist()]
    sample = (path / "samples.txt").read_text()
    assert sample.startswith(f"--- step 1\n{tokenizer.decode(prompts[0])}|")


def test_micro_batches_give_the_same_gradient(chatty, tmp_path):
    file = written(tmp_path / "many.jsonl", TALKS * 3)
    config = chatty(train_data=str(file), eval_data=str(file), batch_size=4, seq_len=LENGTH)
    assert_parts_give_the_same(config, parts=(2, 4))


def test_a_prepared_dataset_brings_its_template_along(chatty, tmp_path, prepare):
    settings = gptlab.PrepareConfig(
        sources=(str(written(tmp_path / "t.jsonl", TALKS * 4)),),
        output=str(tmp_path / "ds"),
        chat_template="chatml",
        seq_len=LENGTH,
        dev_size=0.2,
        quiet=True,
        processes=1,
    )
    path = gptlab.prepare(settings, tokenizer=TOKENIZER).path
    changes = {"train_data": str(path), "eval_data": "auto", "seq_len": LENGTH}
    config = chatty(chat_template=None, vocab_size=TOKENIZER.vocab_size, **changes)
    inputs = load_inputs(config, saved=None, say=print)
    assert inputs.chat_template == CHATML
    assert inputs.tokenizer == TOKENIZER
    with pytest.raises(ConfigError, match="ds has conversations of template chatml, but the"):
        load_inputs(config.replace(chat_template="zephyr"), saved=None, say=print)
    plain = prepare("plain", ["some text " * 40], tokenizer=TOKENIZER)
    mixed = config.replace(train_data=(str(path), str(plain)), eval_data=str(path))
    with pytest.raises(ConfigError, match="plain has plain texts, but the run conversations of"):
        load_inputs(mixed, saved=None, say=print)
    (tmp_path / "eval.txt").write_text("some text " * 40)
    line = r"eval\.txt is read as plain texts, but the run has conversations of template chatml;"
    for changes in ({"eval_data": str(tmp_path / "eval.txt")}, {"train_data": ("eval.txt", "ds")}):
        with pytest.raises(ConfigError, match=line):
            load_inputs(config.replace(**{"eval_data": "ds", **changes}), saved=None, say=print)


def test_tokens_of_the_template_are_added_to_a_tokenizer_that_lacks_them(chatty):
    BPETokenizer([]).save("bare")
    changes = {"tokenizer": "bare", "max_steps": 2, "vocab_size": 260}
    path = train(chatty(**changes)).path
    model, tokenizer = gptlab.load(path)
    assert tokenizer == TOKENIZER
    assert model.config.vocab_size == TOKENIZER.vocab_size


def test_what_is_wrong_with_conversations_is_told_before_training(chatty, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"messages": talk("a", "b")}) + "\n" + '{"messages": []}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl, line 2: messages has no messages"):
        train(chatty(train_data=str(bad)))
    with pytest.raises(ConfigError, match=r"bpe_dropout is 0\.1, but conversations are encoded"):
        train(chatty(bpe_dropout=0.1))


def test_the_settings_of_conversations():
    config = TrainConfig(train_data="x", chat_template="chatml")
    assert config.field == "messages"
    assert "field" not in config.model_fields_set
    assert TrainConfig(train_data="x", chat_template="chatml", field="talk").field == "talk"
    assert TrainConfig(train_data="x").field == "text"


def test_old_datasets_are_read_as_they_were(prepare):
    dataset = TokenDataset(prepare("plain", ["some text"]))
    assert (dataset.is_masked, dataset.chat_template) == (False, None)
