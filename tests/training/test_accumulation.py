import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import free_port, run_job
from safetensors.torch import load_file

import gptlab
from gptlab.training.ranks import Ranks
from gptlab.training.session import open_session
from gptlab.training.step import train_step

TEXTS = [f"the cat {n % 7} sat{' on a mat' * (n % 4)}" for n in range(80)]
LOSSES = {
    "plain": {},
    "key tokens": {"key_tokens": ("a", "t"), "key_weight": 3.0},
    "key windows": {"key_tokens": ("a", "t"), "key_mode": "sample", "key_weight": 0.5},
    "smoothed": {"label_smoothing": 0.1, "z_loss": 0.01},
    "chunked": {"loss_chunk": 37},
    "all": {"key_tokens": ("a",), "label_smoothing": 0.1, "z_loss": 0.01, "loss_chunk": 50},
}
SPLITS = (4, 5, 32)
# Relative to the largest gradient; float32 adds 32 x 16 terms, each rounded to 6e-8 of it.
ROUNDING = 1e-5


class Keeper:
    """In an optimizer's place: keeps the gradients that it should follow."""

    def __init__(self, model):
        self.model, self.param_groups = model, [{}]

    def step(self):
        named = self.model.named_parameters()
        self.gradients = {name: parameter.grad.clone() for name, parameter in named}


def gradients(config, *, parts, ranks=None):
    """Those of the first step, and what it adds up to."""
    session = open_session(config, ranks or Ranks())
    with session.loader:
        keeper = Keeper(session.model)
        session = replace(session, parts=parts, optimizers=(keeper,))
        report = train_step(session, session.module)
    sums = {f"sum of {name}": value for name, value in report.sums._asdict().items()}
    return {**keeper.gradients, **sums, "norm": torch.tensor(report.gradient_norm)}


def oracle(config):
    """The gradients of the definition, a target at a time in float64, in one piece."""
    session = open_session(config, Ranks())
    with session.loader:
        batch, model = session.batch(0), session.model.double()
    keys = {session.inputs.tokenizer.encode(word)[0] for word in config.key_tokens}
    total = weight = 0.0
    logits = model(batch.inputs)
    for row in range(len(batch.inputs)):
        length = int(batch.weights[row].sum())
        read = [*batch.inputs[row, :1].tolist(), *batch.targets[row, :length].tolist()]
        found = sum(token in keys for token in read)
        for place in range(length):
            target = batch.targets[row, place]
            own = 1.0
            if config.key_mode == "sample":
                own += config.key_weight * found
            elif int(target) in keys:
                own = config.key_weight or 2.0
            chances = logits[row, place].log_softmax(0)
            smoothing = config.label_smoothing
            loss = -(1 - smoothing) * chances[target] - smoothing * chances.mean()
            loss = loss + config.z_loss * logits[row, place].logsumexp(0) ** 2
            total, weight = total + own * loss, weight + own
    (total / weight).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def deviation(one, other):
    """Largest difference of two sets of tensors, in units of the largest number of its tensor."""
    assert one.keys() == other.keys()
    differences = []
    for name, expected in other.items():
        scale = expected.abs().max().double().clamp_min(1e-3)
        differences.append((one[name].double() - expected.double()).abs().max() / scale)
    return max(differences).item()


@pytest.fixture
def padded(prepare, tiny):
    """Settings of a run of 32 windows a step, some of them filled up."""
    prepare("cats", TEXTS, dev=TEXTS[:6], mode="chunk", seq_len=16, short="pad")

    base = {
        "train_data": "cats",
        "vocab_size": 260,
        "num_layers": 2,
        "batch_size": 32,
        "max_steps": 6,
        "eval_steps": 3,
        "log_every": 1,
        "grad_clip": 0.0,
    }
    return lambda **changes: tiny(**{**base, **changes})


@pytest.mark.parametrize("loss", LOSSES)
def test_any_split_has_the_gradient_of_the_definition(padded, loss):
    config = padded(**LOSSES[loss])
    whole = gradients(config, parts=1)
    expected = oracle(config)
    assert deviation({name: whole[name] for name in expected}, expected) < ROUNDING
    for parts in SPLITS:
        assert deviation(gradients(config, parts=parts), whole) < ROUNDING


def run(config):
    """The weights and the losses that a run ends with."""
    gptlab.train(config)
    folder = Path(config.runs_dir, config.experiment_name)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records]
    weights = load_file(next(folder.glob("last-*")) / "model.safetensors")
    return {**weights, "losses": torch.tensor(losses, dtype=torch.float64)}


def test_runs_stay_together(padded, without_plots):
    changes = {**LOSSES["all"], "grad_clip": 0.5}
    whole = run(padded(**changes))
    assert len(whole["losses"]) == 6 + 2
    for name, value in {
        "gradient_accumulation_steps": 4,
        "micro_batch_size": 7,
    }.items():
        config = padded(**{**changes, "experiment_name": name, name: value})
        # Adam divides by what may be tiny, which makes rounding larger.
        assert deviation(run(config), whole) < 100 * ROUNDING


def given(config):
    return {name: getattr(config, name) for name in config.model_fields_set}


JOB = """
import json, os, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_accumulation import gradients, run
from gptlab.config import TrainConfig
from gptlab.training.ranks import joined
from safetensors.torch import save_file

with joined("cpu") as ranks:
    for name, settings in json.loads({configs!r}).items():
        for parts in (1, 3):
            found = gradients(TrainConfig(**settings), parts=parts, ranks=ranks)
            if ranks.is_first:
                save_file(found, f"{{name}}-{{parts}}.safetensors")
settings = json.loads({run!r})
# At the former port the first process may still be leaving.
os.environ["MASTER_PORT"] = "{port}"
found = run(TrainConfig(**settings))
if ranks.is_first:
    save_file(found, "run.safetensors")
"""


def test_two_processes_have_the_gradient_and_the_run_of_one(padded, without_plots, text_file):
    configs = {name: padded(**LOSSES[name]) for name in ("plain", "key windows", "all")}
    alone = padded(**LOSSES["all"])
    both = padded(**LOSSES["all"], experiment_name="both", gradient_accumulation_steps=3)
    script = JOB.format(
        tests=str(Path(__file__).parent),
        configs=json.dumps({name: given(config) for name, config in configs.items()}),
        run=json.dumps(given(both)),
        port=free_port(),
    )
    for ended in run_job(text_file.parent, size=2, script=script):
        assert ended.code == 0, ended.errors
    for name, config in configs.items():
        whole = gradients(config, parts=1)
        for parts in (1, 3):
            assert deviation(load_file(f"{name}-{parts}.safetensors"), whole) < ROUNDING
    assert deviation(load_file("run.safetensors"), run(alone)) < 100 * ROUNDING
