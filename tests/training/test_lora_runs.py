"""Runs that train adapters: what they save, go on from, and come to."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from jobs import COMMAND, Started, run_job, train_flags
from safetensors.torch import load_file, save_file

import gptlab
from gptlab import interop
from gptlab.checkpoint import load_model, read_header, save_adapter, verify
from gptlab.checkpoint.adapters import fingerprint
from gptlab.config import SamplingConfig, TrainConfig
from gptlab.errors import CheckpointError
from gptlab.model import merged
from gptlab.training import cost, train
from gptlab.training.cost import later_memory, probe
from gptlab.training.lr_find import find_learning_rate
from gptlab.training.metrics import MEASURED, read_metrics
from gptlab.training.plan import describe
from gptlab.training.session import open_session
from gptlab.training.snapshot import take_snapshot

pytestmark = pytest.mark.usefixtures("without_plots")

DOGS = "".join(
    f"a dog ran {n % 5} times round the house and {n % 3} times back\n" for n in range(50)
)
ROUNDING = 2e-5
# With several processes, sums are rounded in another order.
ORDER = 1e-4


@pytest.fixture
def base(tiny) -> Path:
    """A tiny trained model, and a text to go on with."""
    Path("dogs.txt").write_text(DOGS)
    return train(tiny(experiment_name="base", num_layers=2, max_steps=6)).path


@pytest.fixture
def tune(base):
    """Settings of a run that adapts `base`, with changes."""

    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{
                "init_from": str(base),
                "train_data": "dogs.txt",
                "experiment_name": "tuned",
                "lora_rank": 2,
                "learning_rate": 1e-2,
                "batch_size": 4,
                "max_steps": 12,
                "eval_steps": 4,
                "log_every": 2,
                "patience": 0,
                "sample_length": 5,
                "device": "cpu",
                "precision": "fp32",
                "attention": "reference",
                "compile": "off",
                "quiet": True,
                **changes,
            }
        )

    return make


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(8).view(1, -1))


def assert_same_tensors(run: Path, straight: Path) -> None:
    for checkpoint in (path for path in straight.iterdir() if path.is_dir()):
        other = run / checkpoint.name.replace(straight.name, run.name)
        for file in checkpoint.rglob("*.safetensors"):
            found = (other / file.relative_to(checkpoint)).read_bytes()
            assert found == file.read_bytes(), (checkpoint.name, file.name)


@pytest.mark.parametrize("bits", ["full", "int8"])
def test_every_checkpoint_is_whole_and_they_share_the_base(tune, bits):
    result = train(tune(lora_base=bits, save_every=4, lora_dropout=0.1))
    checkpoints = sorted(path for path in result.path.iterdir() if path.is_dir())
    assert len(checkpoints) == 5
    bases = {(path / "model.safetensors").stat().st_ino for path in checkpoints}
    assert len(bases) == 1
    adapters = {(path / "adapter.safetensors").read_bytes() for path in checkpoints}
    assert len(adapters) == 3
    for path in checkpoints:
        verify(path)
        assert read_header(path)["lora"]["rank"] == 2
    trainer = load_file(checkpoints[-1].parent / "last-12" / "trainer" / "optimizer.safetensors")
    assert {name.rpartition(":")[0].rpartition(".")[2] for name in trainer} == {"lora_a", "lora_b"}


def test_where_links_fail_the_base_is_copied(tune, monkeypatch):
    def refuse(*_args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    result = train(tune(save_every=4))
    checkpoints = [path for path in result.path.iterdir() if path.is_dir()]
    files = [path / "model.safetensors" for path in checkpoints]
    assert len({file.stat().st_ino for file in files}) == len(files) == 5
    assert len({file.read_bytes() for file in files}) == 1
    for path in checkpoints:
        verify(path)


def test_a_snapshot_copies_only_what_learns(tune):
    session = open_session(tune())
    first = take_snapshot(session)
    pointers = {tensor.data_ptr() for tensor in session.model.state_dict().values()}
    copied = {name for name, tensor in first.model.items() if tensor.data_ptr() not in pointers}
    assert copied == {name for name, p in session.model.named_parameters() if p.requires_grad}
    train(tune())
    later = take_snapshot(open_session(tune(resume=True, max_steps=20)))
    assert later.model.keys() == copied
    assert later.base is not None


@pytest.mark.parametrize("bits", ["full", "int8"])
def test_a_run_loads_merged_or_as_it_learned(tune, bits):
    path = train(tune(lora_base=bits)).path
    plain, tokenizer = gptlab.load(path)
    assert plain.lora is None
    assert type(plain.blocks[0].attention.qkv_proj).__name__ == "Linear"
    apart = load_model(path / "last-12", merge=False)
    assert apart.lora is not None
    assert torch.equal(logits(merged(apart)), logits(plain))
    torch.testing.assert_close(logits(apart), logits(plain), rtol=0, atol=ROUNDING)
    greedy = SamplingConfig(temperature=0, max_new_tokens=8)
    texts = {
        gptlab.Generator(model, tokenizer, compile="off").generate("a dog", greedy)
        for model in (apart, plain)
    }
    assert len(texts) == 1
    gptlab.save("kept", apart, tokenizer)
    assert torch.equal(logits(gptlab.load("kept")[0]), logits(plain))
    gptlab.quantize(plain)


def test_loading_draws_no_random_numbers(tune):
    path = train(tune(max_steps=1)).path
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    gptlab.load(path)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_base": "int8"},
        {"special_tokens": ["dog", "<b>"], "lower_case": True, "seq_len": 8},
    ],
    ids=["full", "int8", "tokens"],
)
def test_adapters_saved_alone_go_onto_their_base_again(base, tune, settings):
    path = train(tune(**settings)).path
    folder = save_adapter("alone/adapter", path)
    assert not (folder / "model.safetensors").exists()
    assert sum(f.stat().st_size for f in folder.glob("*.safetensors")) < 12_000
    expected, tokenizer = gptlab.load(path)
    for adapter in (folder, path, path / "last-12"):
        model, own = interop.load(base, adapter=adapter)
        assert own == tokenizer
        assert model.config.replace(attention="auto") == expected.config.replace(attention="auto")
        assert torch.equal(logits(model), logits(expected))
        assert not model.training


def test_adapters_of_another_base_or_damaged_ones_are_refused(base, tune, tiny):
    path = train(tune(max_steps=2)).path
    folder = save_adapter("adapter", path)
    other = train(tiny(experiment_name="other", num_layers=2, seed=1, max_steps=1)).path
    with pytest.raises(
        CheckpointError, match="the adapters in adapter were trained on another mod"
    ):
        interop.load(other, adapter=folder)
    with pytest.raises(CheckpointError, match=r"base/last-6 has no adapters; give a run with lora"):
        interop.load(base, adapter=base)
    with pytest.raises(CheckpointError, match="has no adapters; train some with --lora_rank"):
        save_adapter("none", base)
    with pytest.raises(CheckpointError, match="adapter exists already; give a new folder"):
        save_adapter("adapter", path)
    file = folder / "adapter.safetensors"
    tensors = load_file(file)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, file)
    with pytest.raises(CheckpointError, match=r"adapter\.safetensors is damaged"):
        interop.load(base, adapter=folder)


def test_a_damaged_header_is_one_line(tune):
    path = train(tune(max_steps=1)).path / "last-1" / "config.json"
    header = json.loads(path.read_text())
    header["lora"]["rank"] = -1
    path.write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match=r"config\.json is damaged; use another checkpoint"):
        load_model(path.parent)


def test_a_fingerprint_is_of_the_numbers_whatever_their_type(base):
    model, _ = gptlab.load(base)
    half = gptlab.load(base)[0].to(torch.bfloat16)
    rounded = gptlab.load(base)[0].to(torch.bfloat16).float()
    assert fingerprint(half) == fingerprint(rounded) != fingerprint(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.2, "lora_dropout": 0.3},
        {"lora_base": "int8", "optimizer": "muon", "ema_decay": 0.9},
        {"activation_checkpointing": True, "precision": "bf16", "key_tokens": ["a"]},
        {"document_mask": True, "optimizer": "lion", "special_tokens": ["dog"]},
    ],
    ids=["dropout", "muon", "checkpointing", "documents"],
)
def test_going_on_without_the_base_is_as_if_never_stopped(base, tune, settings):
    straight = train(tune(save_every=6, **settings)).path
    shutil.rmtree(base)
    resume = TrainConfig(resume=f"{straight}/tuned_s6", experiment_name="branch", quiet=True)
    resumed = train(resume).path
    for name in ("last-12", "best-12"):
        if not (straight / name).exists():
            continue
        for file in (straight / name).rglob("*.safetensors"):
            other = resumed / name / file.relative_to(straight / name)
            assert other.read_bytes() == file.read_bytes(), file
    assert (resumed / "samples.txt").read_bytes() == (straight / "samples.txt").read_bytes()


def test_a_killed_run_goes_on_to_the_bit(tune, tmp_path):
    usual = {"max_steps": 40, "lora_dropout": 0.2, "save_every": 4, "keep_last": 2, "log_every": 1}
    straight = train(tune(experiment_name="straight", **usual)).path
    config = tune(experiment_name="killed", resume=True, **usual)
    process = Started(COMMAND, train_flags(config), folder=tmp_path)
    folder = Path("runs/killed")
    while process.runs and len(read_metrics(folder)) < 14:
        time.sleep(0.005)
    process.kill()
    assert train(config).path == folder
    assert_same_tensors(folder, straight)
    timing = dict.fromkeys(MEASURED)
    killed = [record | timing for record in read_metrics(folder)]
    assert killed == [record | timing for record in read_metrics(straight)]


def test_the_plan_counts_what_learns(tune):
    session = open_session(tune())
    learn = sum(p.numel() for p in session.model.parameters() if p.requires_grad)
    assert later_memory(session) == 8 * learn
    plan = describe(session, probe(session, session.module))
    assert f"parameters, of which {learn:,} learn: 2 layers" in plan
    assert "learn the text by heart" not in plan


def test_a_search_for_the_rate_is_of_the_adapters(tune):
    search = find_learning_rate(tune(), steps=12)
    assert len(search.points) > 3
    assert search.points[-1].learning_rate > search.points[0].learning_rate


def test_another_rank_is_no_way_to_go_on(tune):
    train(tune(max_steps=2))
    with pytest.raises(gptlab.GptlabError, match=r"with other settings: lora_rank \(2, not 4\)"):
        train(tune(max_steps=4, lora_rank=4, resume=True))


JOB = """
import json, torch
torch.set_num_threads(1)
from gptlab.config import TrainConfig
from gptlab.training import loop
loop.plot_run = lambda _folder: None
loop.train(TrainConfig(**json.loads({settings!r})))
"""


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("ddp", {"lora_rank": None, "train_last_layers": 1}),
        ("fsdp", {"lora_base": "int8"}),
    ],
    ids=["last layers, ddp", "LoRA, fsdp"],
)
def test_two_processes_learn_as_one(tune, tmp_path, mode, settings):
    settings |= {"max_steps": 6, "learning_rate": 1e-3}
    train(tune(experiment_name="alone", **settings))
    config = tune(experiment_name="together", parallel=mode, **settings)
    job = {key: getattr(config, key) for key in config.model_fields_set}
    for ended in run_job(tmp_path, size=2, script=JOB.format(settings=json.dumps(job))):
        assert ended.code == 0, ended.errors
    alone, together = (gptlab.load(f"runs/{run}")[0].state_dict() for run in ("alone", "together"))
    for key, tensor in alone.items():
        torch.testing.assert_close(together[key], tensor, rtol=0, atol=ORDER)


@pytest.mark.parametrize("part", [{}, {"lora_rank": None, "train_last_layers": 1}])
def test_a_part_that_learns_has_no_share_of_the_peak(tune, monkeypatch, part):
    monkeypatch.setattr(cost, "peak_flops", lambda *_, **__: 1e12)
    session = open_session(tune(**part))
    assert " of what matrix products" not in describe(session, probe(session, session.module))
    records = read_metrics(train(tune(**part)).path)
    assert not any("mfu" in record for record in records)
    whole = tune(lora_rank=None, experiment_name="whole")
    session = open_session(whole)
    assert " of what matrix products" in describe(session, probe(session, session.module))
    assert any("mfu" in record for record in read_metrics(train(whole).path))
