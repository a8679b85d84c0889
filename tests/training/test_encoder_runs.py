"""Encoders trained by the loop on hidden tokens, and what begins with them."""

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from gradients import assert_parts_give_the_same
from head_tasks import records, rows_of, write

import gptlab
from gptlab import interop
from gptlab.checkpoint import find_checkpoint, save_adapter
from gptlab.config import PrepareConfig, TrainConfig
from gptlab.data.masking import Masking
from gptlab.data.preparation import prepare
from gptlab.errors import ConfigError, GptlabError, TokenizerError
from gptlab.model import Encoder
from gptlab.prediction import ModelWithHead
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.mask import mask_id, with_mask
from gptlab.training import loop, train
from gptlab.training.masked_evaluation import MaskedEvaluation, evaluate_masked
from gptlab.training.metrics import read_metrics
from gptlab.training.session import open_session

pytestmark = pytest.mark.usefixtures("without_plots")


@pytest.fixture
def masked(tiny):
    """Settings of a tiny run of an encoder, with changes."""

    def make(**changes: object) -> TrainConfig:
        return tiny(**{"architecture": "encoder", **changes})

    return make


def refusal(make, **settings):
    """The one line with which settings, or a run of them, are refused."""
    with pytest.raises(GptlabError) as refused:
        train(make(**settings))
    (line,) = str(refused.value).splitlines()
    return line


def loss_by_hand(model, batch):
    """The mean of -log p over hidden tokens, window by window, without filling."""
    nats = []
    for row in range(len(batch.inputs)):
        length = batch.inputs.shape[1] if batch.lengths is None else int(batch.lengths[row])
        log_p_TV = model(batch.inputs[row : row + 1, :length])[0].log_softmax(dim=-1)
        for place, target, weight in zip(
            batch.places[row], batch.targets[row], batch.weights[row], strict=True
        ):
            if weight:
                nats.append(-log_p_TV[place, target])
    return torch.stack(nats).mean()


def test_the_loss_is_of_hidden_tokens_alone_and_of_no_filling(masked, prepare):
    texts = ["a cat sat", "on", "the mat and slept for long"] * 4
    folder = prepare("data", texts, dev=texts, mode="chunk", seq_len=16, short="pad")
    session = open_session(masked(train_data=str(folder), mask_share=0.3, vocab_size=260))
    with session.loader:
        batch = session.batch(0)
        sums = session.objective(batch)
        assert batch.lengths.min() < 16
        assert 0 < batch.weights.sum() < batch.weights.numel()
        expected = loss_by_hand(session.model, batch)
        assert (sums.nats / sums.tokens).item() == pytest.approx(expected.item(), rel=1e-5)
        assert (sums.objective / sums.weight).item() == pytest.approx(expected.item(), rel=1e-5)
        assert session.objective.weight(batch) == sums.weight == batch.weights.sum()


@pytest.mark.parametrize("chunk", [None, 3])
def test_micro_batches_give_the_same_gradient(masked, chunk):
    assert_parts_give_the_same(masked(batch_size=5, loss_chunk=chunk), parts=(2, 5))


def test_killed_and_resumed_is_bit_exact(masked, monkeypatch):
    straight = train(masked(experiment_name="straight", dropout=0.1)).path
    plain = loop.train_step

    def dying(session, forward):
        if session.state.step == 8:
            raise KeyboardInterrupt
        return plain(session, forward)

    monkeypatch.setattr(loop, "train_step", dying)
    config = masked(experiment_name="broken", dropout=0.1)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(loop, "train_step", plain)
    broken = train(config.model_copy(update={"resume": True})).path
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        one, two = ((find_checkpoint(run) / name).read_bytes() for run in (straight, broken))
        assert one == two
    assert records(broken) == records(straight)
    assert (broken / "samples.txt").read_text() == (straight / "samples.txt").read_text()


class RankOf:
    """One of several processes, which keeps its sums to itself."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def sum(self, sums: torch.Tensor) -> torch.Tensor:
        return sums


def test_processes_together_measure_what_one_does(masked):
    session = open_session(masked(batch_size=2))
    session.loader.close()
    masking = Masking.of(session.inputs.tokenizer, 0.15)

    def measured(size: int, **ranks: object) -> MaskedEvaluation:
        datasets = session.inputs.evaluation
        return evaluate_masked(session.objective, datasets, masking, batch_size=size, **ranks)

    whole = measured(5)
    shares = [measured(2, ranks=RankOf(rank, 3)) for rank in range(3)]
    assert sum(share.masked_tokens for share in shares) == whole.masked_tokens
    for name in ("loss", "masked_accuracy"):
        total = sum(getattr(share, name) * share.masked_tokens for share in shares)
        assert total / whole.masked_tokens == pytest.approx(getattr(whole, name), rel=1e-5)


def test_it_learns_to_find_what_both_sides_tell(masked):
    shape = {"seq_len": 32, "embed_dim": 32, "num_layers": 2, "vocab_size": 290, "batch_size": 16}
    shape |= {"optimizer": "muon", "learning_rate": 1e-2, "sample_length": 32}
    config = masked(**shape, max_steps=100, eval_steps=20)
    path = train(config).path
    found = [record for record in read_metrics(path) if record["split"] == "eval"]
    assert found[-1]["masked_accuracy"] > 0.6 > found[0]["masked_accuracy"]
    assert found[-1]["masked_tokens"] == found[0]["masked_tokens"] > 0
    assert "bits_per_byte" not in found[-1]
    assert found[-1]["perplexity"] == pytest.approx(torch.tensor(found[-1]["loss"]).exp().item())
    (answer,) = ModelWithHead.load(path).predict(["the cat sat on <MASK> 3 and saw 2 mice\n"])
    assert answer["filled"] == "the cat sat on mat 3 and saw 2 mice\n"
    assert "[" in (path / "samples.txt").read_text()


def test_a_run_has_a_mask_token_of_its_own_or_gives_its_tokenizer_one(masked, prepare):
    session = open_session(masked())
    session.loader.close()
    assert "<MASK>" in session.inputs.tokenizer.special_tokens
    assert session.config.vocab_size == session.inputs.tokenizer.vocab_size <= 270
    plain = BPETokenizer([])
    plain.save("plain")
    config = masked(tokenizer="plain", vocab_size=260, max_steps=2, eval_steps=2)
    model, tokenizer = gptlab.load(train(config).path)
    assert isinstance(model, Encoder)
    assert tokenizer == with_mask(plain)
    assert model.config.vocab_size == 261
    train(config.model_copy(update={"resume": True, "max_steps": 3}))
    # Prepared by the tokenizer before it had a mask, and read by it from then on.
    texts = ["a cat and a dog that ran to the house"] * 3
    folder = prepare("data", texts, dev=texts, seq_len=8, mode="chunk")
    given = {"train_data": str(folder), "tokenizer": "auto", "experiment_name": "prepared"}
    first = masked(**given, vocab_size=260, max_steps=2, seq_len=8)
    train(first)
    result = train(first.model_copy(update={"resume": True, "max_steps": 3}))
    assert result.steps == 3
    assert gptlab.load(result.path)[1] == with_mask(plain)
    other = BPETokenizer([(b"a", b" ")])
    other.save("other")
    line = refusal(
        masked, **{**given, "tokenizer": "other", "experiment_name": "no"}, vocab_size=261
    )
    assert "was prepared with another tokenizer" in line


def test_what_an_encoder_does_not_learn_is_refused_in_a_line(masked, tiny, head_run):
    assert refusal(tiny, mask_share=0.2).startswith("mask_share is not for --architecture")
    said = refusal(tiny, architecture="transformer", mask_share=0.2)
    assert said.startswith("mask_share is not for --architecture transformer")
    assert refusal(masked, window=8).startswith("window is not for --architecture encoder")
    assert refusal(head_run, architecture="encoder", mask_share=0.2) == (
        "mask_share does nothing with --head sequence_classification, which reads all of a text; "
        "leave it out"
    )
    with pytest.raises(ConfigError, match="mask_share"):
        masked(mask_share=1.0)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}]
    Path("talk.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 9)
    made = PrepareConfig(
        sources=("talk.jsonl",), output="talk", chat_template="plain", seq_len=16, dev_size=0.3
    )
    prepare(made, tokenizer=BPETokenizer([]))
    assert "the data are prepared conversations" in refusal(masked, train_data="talk")


def test_a_tokenizer_that_can_not_be_extended_is_refused_in_a_line():
    class Foreign:
        special_tokens: ClassVar[dict[str, int]] = {"</s>": 1}

    with pytest.raises(TokenizerError, match=r"such as <MASK>, which this Foreign lacks, and it c"):
        with_mask(Foreign())
    Foreign.special_tokens["[MASK]"] = 7
    assert with_mask(foreign := Foreign()) is foreign
    assert mask_id(foreign) == 7


@pytest.fixture
def encoder(masked) -> Path:
    """A trained encoder, and rows to go on with."""
    write(Path("rows.jsonl"), rows_of("sequence_classification"))
    return train(masked(experiment_name="encoder", max_steps=4, num_layers=2)).path


@pytest.fixture
def tuned(encoder):
    """Settings of a classifier that begins with the encoder, with changes."""

    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{
                "architecture": "encoder",
                "init_from": str(encoder),
                "head": "sequence_classification",
                "pooling": "mean",
                "train_data": "rows.jsonl",
                "dev_size": 0.3,
                "experiment_name": "tuned",
                "batch_size": 5,
                "max_steps": 60,
                "eval_steps": 30,
                "learning_rate": 1e-2,
                "device": "cpu",
                "precision": "fp32",
                "quiet": True,
                **changes,
            }
        )

    return make


@pytest.mark.parametrize(
    "part", [{}, {"lora_rank": 2}, {"train_last_layers": 1}], ids=["all", "lora", "last"]
)
def test_a_classifier_begins_with_an_encoder(encoder, tuned, part):
    before, tokenizer = gptlab.load(encoder)
    session = open_session(tuned(**part))
    session.loader.close()
    assert session.inputs.tokenizer == tokenizer
    for name, tensor in before.state_dict().items():
        assert torch.equal(session.model.state_dict()[name], tensor), name
    learn = {name.split(".")[0] for name, p in session.model.named_parameters() if p.requires_grad}
    assert ("embedding" in learn) == (not part)
    assert "head" in learn
    path = train(tuned(**part)).path
    last = [record for record in read_metrics(path) if record["split"] == "eval"][-1]
    assert last["accuracy"] == 1.0
    model = ModelWithHead.load(path)
    assert isinstance(model.backbone, Encoder)
    texts = ["it was awful", "it it it was great", "it was fine"]
    together = model.predict(texts)
    assert [answer["label"] for answer in together] == ["bad", "good", "good"]
    for text, answer in zip(texts, together, strict=True):
        alone = model.predict([text])[0]["probabilities"]
        assert alone == pytest.approx(answer["probabilities"], abs=1e-5)


def test_outputs_of_a_row_do_not_depend_on_its_filling(tuned):
    session = open_session(tuned(max_steps=1))
    session.loader.close()
    batch = session.inputs.labelled.train.batch(torch.arange(6).numpy(), width=16)
    tokens, lengths = torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths)
    is_filling = torch.arange(16) >= lengths.unsqueeze(-1)
    other = torch.where(is_filling, torch.randint(0, 200, tokens.shape), tokens)
    assert not torch.equal(other, tokens)
    model = session.model.eval()
    with torch.no_grad():
        for pooling in ("last", "mean"):
            model.head.settings = model.head.settings.replace(pooling=pooling)
            one, two = (
                model.head(model.read_texts(rows, lengths), lengths) for rows in (tokens, other)
            )
            assert torch.equal(one, two)
            short = int(lengths[0])
            alone = model.head(model.read_texts(tokens[:1, :short], lengths[:1]), lengths[:1])
            assert torch.allclose(alone, one[:1], atol=1e-6)


def test_adapters_of_an_encoder_alone_go_onto_it_again(encoder, masked):
    shape = {"num_layers": 2, "init_from": str(encoder), "lora_rank": 2}
    path = train(masked(experiment_name="adapted", **shape)).path
    expected, tokenizer = gptlab.load(path)
    model, own = interop.load(encoder, adapter=save_adapter("alone", path))
    assert own == tokenizer
    tokens = torch.arange(10).unsqueeze(0)
    assert torch.equal(model(tokens), expected(tokens))
    assert not torch.equal(model(tokens), gptlab.load(encoder)[0](tokens))


def test_a_model_of_another_architecture_is_no_beginning(encoder, masked, tiny, tuned):
    assert refusal(tiny, init_from=str(encoder)) == (
        f"{encoder} is of architecture encoder, but the run of gpt; write --architecture encoder, "
        "or begin with another model"
    )
    gpt = train(tiny(experiment_name="gpt", max_steps=1)).path
    assert "write --architecture gpt" in refusal(tuned, init_from=str(gpt))


@pytest.fixture
def translator(text_file):
    """Settings of a Transformer's run, with changes."""
    lines = "".join(f"{n} cats\t{'cat ' * n}\n" for n in range(1, 9))
    Path("pairs.tsv").write_text("source\ttarget\n" + lines)

    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{
                "architecture": "transformer",
                "train_data": "pairs.tsv",
                "experiment_name": "translator",
                "max_steps": 3,
                "eval_steps": 3,
                "batch_tokens": 64,
                "sample_length": 0,
                "device": "cpu",
                "precision": "fp32",
                "quiet": True,
                **changes,
            }
        )

    return make


def test_a_transformer_begins_with_a_transformer(translator):
    shape = {"embed_dim": 16, "num_layers": 1, "encoder_layers": 2, "n_heads": 2, "seq_len": 32}
    base = train(translator(**shape, vocab_size=262, src_vocab_size=264, positions="learned")).path
    before, tokenizer = gptlab.load(base)
    again = {"init_from": str(base), "experiment_name": "again"}
    session = open_session(translator(**again))
    session.loader.close()
    assert session.model.config == before.config
    assert session.config.src_vocab_size == before.config.src_vocab_size
    assert session.inputs.tokenizer.fingerprint() == tokenizer.fingerprint()
    for name, tensor in before.state_dict().items():
        assert torch.equal(session.model.state_dict()[name], tensor), name
    train(translator(**again, seq_len=24, encoder_layers=2))
    first = (find_checkpoint("runs/again") / "model.safetensors").read_bytes()
    config = translator(**again, seq_len=24, max_steps=4, resume=True)
    model, _ = gptlab.load(train(config).path)
    assert model.config == before.config.replace(seq_len=24)
    assert (find_checkpoint("runs/again") / "model.safetensors").read_bytes() != first
    again["experiment_name"] = "no"
    assert "encoder_layers is 3, but" in refusal(translator, **again, encoder_layers=3)
    assert "src_tokenizer is other, but" in refusal(translator, **again, src_tokenizer="other")
    assert "lora_rank is not for --architecture transformer" in refusal(
        translator, **again, lora_rank=2
    )
    assert json.loads(Path("runs/again/config.json").read_text())["init_from"] == str(base)
