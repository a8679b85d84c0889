import json
import math
from dataclasses import replace

import pytest
import torch

from gptlab.config import LossConfig, ModelConfig, OptimizerConfig
from gptlab.errors import CheckpointError
from gptlab.model import GPT
from gptlab.tokenizer import BPETokenizer
from gptlab.training.bad_steps import BadStep, dump, load, nonfinite_gradients, replay, too_many
from gptlab.training.loader import DeviceBatch
from gptlab.training.micro_batches import split
from gptlab.training.objective import Objective
from gptlab.training.precision import Arithmetic

CPU = torch.device("cpu")
TOKENIZER = BPETokenizer([])
BAD = BadStep(
    step=123,
    loss=math.nan,
    gradient_norm=math.inf,
    parameters=("norm.weight",),
    learning_rate=1e-3,
    precision="bf16",
    seed=5,
    parts=2,
    factor=0.01,
)


@pytest.fixture
def batch():
    texts = ["the cat sat on", "a mat, and saw", "two mice: a b "]
    tokens = torch.tensor([TOKENIZER.encode(text) for text in texts])
    weights = torch.ones(3, 13)
    weights[2, 9:] = 0
    return DeviceBatch(
        tokens[:, :-1],
        tokens[:, 1:],
        weights=weights,
        documents=(torch.arange(13) // 5).expand(3, 13).contiguous(),
    )


def objective(**changes):
    config = ModelConfig(
        **{
            "vocab_size": TOKENIZER.vocab_size,
            "seq_len": 13,
            "embed_dim": 16,
            "num_layers": 2,
            "n_heads": 2,
            **changes,
        }
    )
    model = GPT(config, seed=0).train()
    arithmetic = Arithmetic(CPU, "fp32")
    return Objective(model, LossConfig(label_smoothing=0.1), arithmetic=arithmetic)


def gradients(objective):
    return [parameter.grad for parameter in objective.parameters()]


def test_what_was_dumped_is_loaded(tmp_path, batch):
    path = dump(tmp_path, BAD, batch, tokenizer=TOKENIZER)
    assert path == tmp_path / "bad_steps" / "step-123.safetensors"
    bad, loaded = load(path)
    assert math.isnan(bad.loss)
    assert replace(bad, loss=0.0) == replace(BAD, loss=0.0)
    assert loaded.positions is None
    for name in ("inputs", "targets", "weights", "documents"):
        assert torch.equal(getattr(loaded, name), getattr(batch, name))
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "step-123.json",
        "step-123.safetensors",
    ]


def test_the_facts_are_plain_json_with_the_text(tmp_path, batch):
    path = dump(tmp_path, BAD, batch, tokenizer=TOKENIZER).with_suffix(".json")
    facts = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert facts["texts"] == ["the cat sat o", "a mat, and sa", "two mice: a b"]
    assert (facts["loss"], facts["gradient_norm"]) == ("nan", "inf")
    assert facts["parameters"] == ["norm.weight"]


def test_each_process_has_a_file_of_its_own(tmp_path, batch):
    for rank in range(2):
        path = dump(tmp_path, replace(BAD, parts=1 + rank), batch, tokenizer=TOKENIZER, rank=rank)
        assert path.name == f"step-123-rank{rank}.safetensors"
        assert load(path)[0].parts == 1 + rank


def test_a_step_that_was_dumped_before_is_replaced(tmp_path, batch):
    dump(tmp_path, BAD, batch, tokenizer=TOKENIZER)
    path = dump(tmp_path, replace(BAD, parts=3), batch, tokenizer=TOKENIZER)
    assert load(path)[0].parts == 3
    assert len(list(path.parent.iterdir())) == 2


@pytest.mark.parametrize("seed", [5, None])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_replay_is_the_step_to_the_bit(tmp_path, batch, parts, seed):
    dropout = 0.2 if seed is not None else 0.0
    first = objective(dropout=dropout)
    if seed is not None:
        torch.manual_seed(seed)
    sums = []
    for part in split(batch, parts):
        sums.append(first(part))
        (sums[-1].objective * BAD.factor).backward()
    path = dump(tmp_path, replace(BAD, parts=parts, seed=seed), batch, tokenizer=TOKENIZER)

    torch.manual_seed(99)
    second = objective(dropout=dropout)
    replayed = replay(path, second, device=CPU)
    for one, other in zip(gradients(second), gradients(first), strict=True):
        assert torch.equal(one, other)
    for name, value in replayed._asdict().items():
        assert not value.requires_grad
        assert value == torch.stack([getattr(part, name) for part in sums]).sum()


def test_the_parameters_to_blame_are_named(batch):
    broken = objective()
    assert nonfinite_gradients(broken.model) == ()
    broken(batch).objective.backward()
    assert nonfinite_gradients(broken.model) == ()
    model = broken.model
    model.norm.weight.grad[3] = math.nan
    model.blocks[1].attention.o_proj.weight.grad[0, 0] = -math.inf
    assert nonfinite_gradients(model) == ("blocks.1.attention.o_proj.weight", "norm.weight")


@pytest.mark.parametrize(
    ("precision", "grad_clip", "remedy"),
    [
        ("fp32", 1.0, "--learning_rate 0.001"),
        ("fp32", 0.0, "--learning_rate 0.001 or --grad_clip 1"),
        ("bf16", 1.0, "--precision fp32 or --learning_rate 0.001"),
        ("fp16", 1.0, "--precision bf16, --precision fp32 or --learning_rate 0.001"),
        (
            "fp16",
            0.0,
            "--precision bf16, --precision fp32, --learning_rate 0.001 or --grad_clip 1",
        ),
    ],
)
def test_the_end_of_a_run_names_the_remedies(tmp_path, precision, grad_clip, remedy):
    error = too_many(
        replace(BAD, precision=precision),
        count=5,
        path=tmp_path / "step-123.safetensors",
        config=OptimizerConfig(learning_rate=3e-3, grad_clip=grad_clip),
    )
    assert str(error) == (
        "5 step(s) in a row were left out, the last of them step 123, with a loss of nan and a "
        f"gradient norm of inf; start again with {remedy}; its batch is in "
        f"{tmp_path / 'step-123.safetensors'}"
    )


def test_a_disk_that_refuses_is_one_line(tmp_path, batch):
    (tmp_path / "bad_steps").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"step-123.safetensors can't be written: "):
        dump(tmp_path, BAD, batch, tokenizer=TOKENIZER)


@pytest.mark.parametrize("damage", ["{", "{}", "[]", '{"texts": []}', None])
def test_damaged_facts_are_one_line(tmp_path, batch, damage):
    path = dump(tmp_path, BAD, batch, tokenizer=TOKENIZER)
    facts = path.with_suffix(".json")
    facts.unlink() if damage is None else facts.write_text(damage)
    with pytest.raises(CheckpointError, match=r"step-123\.json is missing or damaged"):
        load(path)


def test_a_damaged_batch_is_one_line(tmp_path, batch):
    path = dump(tmp_path, BAD, batch, tokenizer=TOKENIZER)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"step-123\.safetensors is missing or damaged"):
        load(path)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"step-123\.safetensors is missing or damaged"):
        load(path)
