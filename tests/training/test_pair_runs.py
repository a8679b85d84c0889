"""Transformers trained by the loop: against a loop by hand, in parts, resumed, by two processes."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from gradients import gradients
from head_tasks import records, weights
from jobs import run_job
from pair_tasks import pair_lines

from gptlab.checkpoint import find_checkpoint
from gptlab.errors import ConfigError
from gptlab.tokenizer import load_tokenizer
from gptlab.tokenizer.pair import PairTokenizer
from gptlab.training import loop, train
from gptlab.training.bad_steps import replay
from gptlab.training.compiling import forward_and_cost
from gptlab.training.session import open_session
from gptlab.training.step import rate_of, train_step

pytestmark = pytest.mark.usefixtures("without_plots")

SMOOTHING, Z_LOSS = 0.1, 1e-2
WARMUP = 2


def row_by_hand(model, batch, row):
    """Logits of a pair's targets, alone and without filling, and the targets."""
    source = batch.sources[row, : batch.source_lengths[row]]
    length = int(batch.weights[row].sum())
    inputs, targets = batch.inputs[row, :length], batch.targets[row, :length]
    assert inputs[1:].tolist() == targets[:-1].tolist()
    return model(source[None], inputs[None])[0], targets


def loss_by_hand(model, batch, *, smoothing=0.0, z_loss=0.0, key_id=None):
    """The mean over all targets, each by the formula, key tokens counting twice."""
    total, weight = 0.0, 0
    for row in range(len(batch.inputs)):
        logits, targets = row_by_hand(model, batch, row)
        log_z = logits.logsumexp(dim=-1)
        for place, target in enumerate(targets.tolist()):
            log_p = logits[place] - log_z[place]
            loss = -(1 - smoothing) * log_p[target] - smoothing * log_p.mean()
            counts = 2 if target == key_id else 1
            total += counts * (loss + z_loss * log_z[place] ** 2)
            weight += counts
    return total / weight


@pytest.mark.parametrize(
    "given",
    [
        {"label_smoothing": SMOOTHING},
        {"label_smoothing": SMOOTHING, "loss_chunk": 7, "z_loss": Z_LOSS, "norm_place": "post"},
        {"key_tokens": ("a",), "loss_chunk": 100, "src_vocab_size": 264},
        {"activation_checkpointing": True, "encoder_layers": 2},
    ],
)
def test_steps_are_those_of_a_loop_by_hand(pair_run, given):
    config = pair_run(
        schedule="inverse_sqrt", warmup_steps=WARMUP, min_learning_rate=0.0,
        weight_decay=0.0, grad_clip=0, **given,
    )  # fmt: skip
    session, other = open_session(config), open_session(config)
    key_id = session.inputs.tokenizer.encode("a")[0] if config.key_tokens else None
    with session.loader, other.loader:
        model = other.model
        optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0)
        for step in range(5):
            report = train_step(session, session.module)
            loss = loss_by_hand(
                model, other.batch(step),
                smoothing=config.label_smoothing, z_loss=config.z_loss, key_id=key_id,
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            rate = 1e-2 * min((step + 1) / WARMUP, math.sqrt(WARMUP / (step + 1)))
            assert rate_of(other, step) == pytest.approx(rate)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            sums = report.sums
            assert (sums.objective / sums.weight).item() == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in session.model.named_parameters():
        assert torch.allclose(parameter, model.get_parameter(name), atol=2e-4), name


def test_parts_of_a_batch_give_the_same(pair_run):
    config = pair_run(label_smoothing=SMOOTHING, key_tokens=("b",))
    whole = gradients(config, parts=1)
    for parts in (2, 3, 50):
        for name, gradient in gradients(config, parts=parts).items():
            bound = 1e-5 * max(1e-3, whole[name].abs().max())
            assert (gradient - whole[name]).abs().max() <= bound, name


def test_a_run_in_parts_is_the_same_run(pair_run):
    """Though some of its batches have fewer rows than parts, and sums of tokens are exact."""
    whole = train(pair_run(experiment_name="whole")).path
    parts = train(pair_run(experiment_name="parts", gradient_accumulation_steps=3)).path
    for one, two in zip(records(whole), records(parts), strict=True):
        assert one["tokens"] == two["tokens"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for name, tensor in weights(whole).items():
        assert torch.allclose(weights(parts)[name], tensor, atol=1e-3), name
    with pytest.raises(ConfigError, match=r"gradient_accumulation_steps is 60, which makes 60"):
        train(pair_run(experiment_name="many", gradient_accumulation_steps=60))


def test_killed_and_resumed_is_bit_exact(pair_run, monkeypatch):
    """With dropout, an average of the weights, two vocabularies, parts, and over epochs' ends."""
    given = {
        "dropout": 0.1,
        "ema_decay": 0.9,
        "src_vocab_size": 264,
        "gradient_accumulation_steps": 2,
        "label_smoothing": SMOOTHING,
        "eval_translations": 3,
        "max_steps": 20,
    }
    straight = train(pair_run(experiment_name="straight", **given)).path
    plain = loop.train_step

    def dying(session, forward):
        if session.state.step == 13:
            raise KeyboardInterrupt
        return plain(session, forward)

    monkeypatch.setattr(loop, "train_step", dying)
    config = pair_run(experiment_name="broken", **given)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    monkeypatch.setattr(loop, "train_step", plain)
    broken = train(config.model_copy(update={"resume": True})).path
    one, two = find_checkpoint(straight), find_checkpoint(broken)
    for name in ("model.safetensors", "trainer/optimizer.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert records(broken) == records(straight)
    assert records(broken)[-1]["epoch"] > 2
    assert (broken / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()
    tokenizer = load_tokenizer(two)
    assert isinstance(tokenizer, PairTokenizer)
    assert (tokenizer.vocab_size, tokenizer.source.vocab_size) == (270, 264)


def test_a_run_goes_on_without_its_architecture_being_named(pair_run):
    train(pair_run(max_steps=2))
    config = loop.TrainConfig(
        experiment_name="tiny", resume=True, max_steps=3, eval_translations=2, quiet=True
    )
    result = train(config)
    assert result.steps == 3
    assert "bleu" in records(result.path)[-1]


def test_targets_without_their_sources_are_refused():
    with pytest.raises(ConfigError, match=r"^target_data is a.de, but nothing says where its sour"):
        loop.TrainConfig(architecture="transformer", target_data="a.de")


def test_one_vocabulary_does_not_become_two(pair_run):
    train(pair_run(max_steps=2))
    config = loop.TrainConfig(
        experiment_name="tiny", resume=True, max_steps=3, src_vocab_size=300, quiet=True
    )
    with pytest.raises(ConfigError, match=r"with other settings: src_vocab_size \(None, not 300\)"):
        train(config)


def test_the_targets_of_a_run_are_not_others(pair_run):
    for side in ("en", "de"):
        Path(f"a.{side}").write_text("a b\nc d\n" * 9)
    parallel = {"train_data": "a.en", "target_data": "a.de"}
    parallel |= {"eval_data": "a.en", "eval_target_data": "a.de"}
    train(pair_run(max_steps=2, **parallel))
    config = loop.TrainConfig(experiment_name="tiny", resume=True, target_data="b.de", quiet=True)
    with pytest.raises(ConfigError, match="with other settings: target_data"):
        train(config)


def test_a_batch_is_a_function_of_its_step(pair_run):
    with open_session(pair_run()).loader as one, open_session(pair_run()).loader as two:
        straight = [one.batch(step) for step in range(20)]
        for step in (19, 3, 11, 12):
            batch = two.batch(step)
            for part, expected in zip(batch, straight[step], strict=True):
                assert part is expected is None or torch.equal(part, expected)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_learn_and_measure_what_one_does(pair_run, tmp_path, parallel):
    """In parts, of which some batches have fewer for one of them, and with texts written."""
    config = pair_run(
        max_steps=8, eval_steps=4, experiment_name="two", parallel=parallel,
        gradient_accumulation_steps=2, eval_translations=2, learning_rate=1e-3,
    )  # fmt: skip
    alone = train(config.replace(experiment_name="one", parallel="ddp")).path
    given = {name: getattr(config, name) for name in config.model_fields_set}
    script = f"import gptlab; gptlab.train(gptlab.TrainConfig(**{given!r}))"
    for ended in run_job(tmp_path, size=2, script=script):
        assert ended.code == 0, ended.errors
    two = tmp_path / "runs" / "two"
    for one, other in zip(records(alone), records(two), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            is_text = isinstance(value, str)
            assert other[name] == (value if is_text else pytest.approx(value, rel=1e-3)), name
    for name, tensor in weights(alone).items():
        assert torch.allclose(weights(two)[name], tensor, atol=1e-3), name


def test_batches_of_all_shapes_are_computed_by_few_codes(pair_run, monkeypatch):
    """The graphs are those that would be compiled; they have no breaks."""
    graphs = []

    def keep(graph, _inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep, fullgraph=True))
    Path("wide.tsv").write_text(pair_lines(200, lengths=(1, 14)))
    config = pair_run(compile="on", train_data="wide.tsv")
    session, plain = open_session(config), open_session(config)
    with session.loader, plain.loader:
        forward, _ = forward_and_cost(session)
        assert forward is not session.module
        shapes = set()
        for step in range(20):
            batch = session.batch(step)
            shapes.add((*batch.sources.shape, batch.inputs.shape[1]))
            ours, theirs = train_step(session, forward).sums, train_step(plain, plain.module).sums
            assert ours.nats.item() == pytest.approx(theirs.nats.item(), rel=1e-4)
    assert len(shapes) > 10
    assert len(graphs) <= 5


def test_a_step_that_is_not_finite_is_kept_to_be_repeated(pair_run):
    session = open_session(pair_run(max_bad_steps=1))
    session.folder.mkdir(parents=True)
    with session.loader:
        session.model.encoder.blocks[0].attention.o_proj.weight.data.fill_(math.nan)
        report = train_step(session, session.module)
        again = replay(session.folder / "bad_steps" / "step-1.safetensors", session.module,
                       device=torch.device("cpu"))  # fmt: skip
    assert not report.is_finite
    assert "step 1," in str(report.failure)
    assert math.isnan(again.nats)
    assert again.tokens == report.sums.tokens


def test_more_processes_than_rows(pair_run):
    """Are refused where the user said how many rows; else some read one that counts for nothing."""
    session = open_session(pair_run(batch_tokens=None, batch_size=1))
    with session.loader, pytest.raises(ConfigError, match="batch_size is 1, too few for 2 proc"):
        session.sampler.batch(0, rank=1, world_size=2)
    session = open_session(pair_run())
    with session.loader:
        batch = session.sampler.batch(0, rank=99, world_size=100)
    assert batch.weights.sum() == 0
    assert len(batch.inputs) == 1
