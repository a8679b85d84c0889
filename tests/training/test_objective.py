"""What a batch adds to the loss: key tokens, chunks, and any split of it."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gptlab.config import LossConfig, ModelConfig
from gptlab.errors import ConfigError
from gptlab.model import GPT
from gptlab.training.loader import DeviceBatch
from gptlab.training.losses import LossSums, cross_entropy
from gptlab.training.objective import Objective
from gptlab.training.precision import Arithmetic

B, T, V = 5, 8, 23
KEYS = (2, 7, 19)
SHAPE = {"vocab_size": V, "seq_len": T, "embed_dim": 16, "num_layers": 1, "n_heads": 2}
LOSSES = {
    "plain": LossConfig(),
    "token": LossConfig(key_mode="token"),
    "token, 5 times": LossConfig(key_mode="token", key_weight=5),
    "sample": LossConfig(key_mode="sample", label_smoothing=0.1),
    "sample, half": LossConfig(key_mode="sample", key_weight=0.5, z_loss=1e-3),
    "chunked": LossConfig(loss_chunk=6),
    "chunked, all of it": LossConfig(loss_chunk=6, label_smoothing=0.2, z_loss=1e-3),
}


def make_objective(
    config: LossConfig | None = None,
    *,
    key_ids: tuple[int, ...] = (),
    precision: str = "fp32",
    **shape: object,
) -> Objective:
    model = GPT(ModelConfig(**{**SHAPE, **shape}), seed=0)
    arithmetic = Arithmetic(torch.device("cpu"), precision)
    return Objective(model, config, arithmetic=arithmetic, key_ids=key_ids)


def make_batch(*, padded: bool = False) -> DeviceBatch:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(V, (B, T + 1), generator=generator)
    tokens[0, 0], tokens[1, -1] = KEYS[1], KEYS[2]
    batch = DeviceBatch(tokens[:, :-1].clone(), tokens[:, 1:].clone())
    if not padded:
        return batch
    weights = torch.ones(B, T)
    for row in range(0, B, 2):
        weights[row, T - 2 - row :] = 0
    # Filled up with a key token, which is none there.
    inputs = torch.where(weights > 0, batch.inputs, KEYS[0])
    return DeviceBatch(inputs, torch.where(weights > 0, batch.targets, KEYS[0]), weights)


def target_nats(objective: Objective, batch: DeviceBatch) -> torch.Tensor:
    logits = objective.model(batch.inputs).detach().double()
    return F.cross_entropy(logits.transpose(1, 2), batch.targets, reduction="none")


def gradients(objective: Objective, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = dict(objective.model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, parameters.values()), strict=True))


def rows_of(batch: DeviceBatch, start: int, stop: int) -> DeviceBatch:
    return batch.each(lambda part: part[start:stop])


@pytest.mark.parametrize("padded", [False, True])
def test_without_settings_it_is_cross_entropy(padded):
    objective, batch = make_objective(), make_batch(padded=padded)
    sums = objective(batch)
    loss, weight = cross_entropy(
        objective.model(batch.inputs), batch.targets, weights_BT=batch.weights
    )
    assert torch.equal(sums.objective, loss)
    assert torch.equal(sums.nats, loss.detach())
    assert sums.weight == sums.tokens == weight
    assert sums.key_nats == sums.key_tokens == 0
    assert all(part.dtype == torch.float32 and part.ndim == 0 for part in sums)
    assert [part.requires_grad for part in sums] == [True, False, False, False, False, False]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("weight", "expected"), [(None, 2), (3.5, 3.5), (0.25, 0.25)])
def test_in_token_mode_a_key_target_weighs_more(weight, expected, padded):
    objective = make_objective(LossConfig(key_weight=weight), key_ids=KEYS)
    batch = make_batch(padded=padded)
    sums, nats = objective(batch), target_nats(objective, batch)
    total = weights = key_nats = key_tokens = plain = tokens = 0.0
    for row in range(B):
        for place in range(T):
            if batch.weights is not None and not batch.weights[row, place]:
                continue
            is_key = batch.targets[row, place].item() in KEYS
            factor = expected if is_key else 1
            total, weights = total + factor * nats[row, place].item(), weights + factor
            plain, tokens = plain + nats[row, place].item(), tokens + 1
            key_nats, key_tokens = key_nats + is_key * nats[row, place].item(), key_tokens + is_key
    assert key_tokens > 0
    assert [part.item() for part in sums] == pytest.approx(
        [total, weights, plain, tokens, key_nats, key_tokens], rel=1e-6
    )


def keytoken_weighted_loss(sequences, logits, key_ids, alpha):
    """The course's recipe, one sequence after another; its weights have the mean 1 here."""
    losses, weights = [], []
    for sequence, row in zip(sequences, logits, strict=True):
        losses.append(F.cross_entropy(row, sequence[1:]))
        weights.append(1 + alpha * sum(token in key_ids for token in sequence.tolist()))
    weights = torch.tensor(weights, dtype=torch.float64)
    return (torch.stack(losses) * weights / weights.mean()).mean()


@pytest.mark.parametrize("weight", [None, 0.5, 4.0])
def test_sample_mode_is_the_recipe_of_the_course(weight):
    objective = make_objective(LossConfig(key_mode="sample", key_weight=weight), key_ids=KEYS)
    batch = make_batch()
    sequences = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1)
    logits = objective.model(batch.inputs)
    expected = keytoken_weighted_loss(sequences, logits.double(), KEYS, weight or 1.0)
    sums = objective(batch)
    loss = sums.objective / sums.weight
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.item() != pytest.approx((sums.nats / sums.tokens).item(), rel=1e-4)
    theirs = gradients(objective, expected)
    torch.testing.assert_close(gradients(objective, loss), theirs, rtol=1e-4, atol=1e-6)


def test_what_fills_up_a_row_has_no_key_tokens():
    objective = make_objective(LossConfig(key_mode="sample"), key_ids=KEYS)
    padded = make_batch(padded=True)
    for row in range(0, B, 2):
        length = T - 2 - row
        real = rows_of(padded, row, row + 1).each(lambda part, end=length: part[:, :end])
        alone, filled_up = objective(real), objective(rows_of(padded, row, row + 1))
        torch.testing.assert_close(filled_up, alone)


@settings(max_examples=30, deadline=None)
@given(
    config=st.sampled_from(list(LOSSES.values())),
    cuts=st.sets(st.integers(1, B - 1)),
    padded=st.booleans(),
    with_keys=st.booleans(),
)
def test_any_split_into_rows_adds_up(config, cuts, padded, with_keys):
    objective = make_objective(config, key_ids=KEYS if with_keys else ())
    batch = make_batch(padded=padded)
    whole = objective(batch)
    parts = [rows_of(batch, *borders) for borders in pairwise([0, *sorted(cuts), B])]
    sums = LossSums(*(sum(kind) for kind in zip(*map(objective, parts), strict=True)))
    torch.testing.assert_close(sums, whole, rtol=1e-5, atol=1e-5)
    total = sum(map(objective.weight, parts))
    torch.testing.assert_close(total, whole.weight)
    torch.testing.assert_close(
        gradients(objective, sums.objective / total),
        gradients(objective, whole.objective / whole.weight),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("config", LOSSES.values(), ids=LOSSES)
def test_the_weight_is_known_before_the_forward_pass(config, padded):
    objective, batch = make_objective(config, key_ids=KEYS), make_batch(padded=padded)
    expected = objective(batch).weight
    objective.model = None
    weight = objective.weight(batch)
    assert torch.equal(weight, expected)
    assert weight.dtype == torch.float32


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", [{"tie_embeddings": True}, {"tie_embeddings": False}])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunks_give_what_the_whole_gives(chunk, cap, shape, precision):
    extras = {"label_smoothing": 0.1, "z_loss": 1e-2, "key_weight": 3}
    settings = {"precision": precision, "key_ids": KEYS, "logit_soft_cap": cap, **shape}
    plain = make_objective(LossConfig(**extras), **settings)
    chunked = make_objective(LossConfig(loss_chunk=chunk, **extras), **settings)
    batch = make_batch(padded=True)
    expected, sums = plain(batch), chunked(batch)
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-5)
    # The head's gradient is rounded to bf16 once for each chunk.
    bound = {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(
        gradients(chunked, sums.objective), gradients(plain, expected.objective), **bound
    )


def test_chunks_keep_dropout_documents_and_positions():
    places = {
        "documents": torch.arange(T).expand(B, T) // 3,
        "positions": torch.arange(T).expand(B, T) % 3,
    }
    batch = make_batch()._replace(**places)
    results = []
    for config in (LossConfig(), LossConfig(loss_chunk=9)):
        objective = make_objective(config, dropout=0.3).train()
        torch.manual_seed(5)
        sums = objective(batch)
        results.append((sums, gradients(objective, sums.objective)))
        torch.manual_seed(5)
        without = objective(make_batch())
        assert without.nats != sums.nats
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("key_id", [-1, V])
def test_a_key_token_outside_the_vocabulary_is_refused(key_id):
    with pytest.raises(ConfigError, match=f"key token {key_id} is outside .* vocabulary of {V}"):
        make_objective(key_ids=(3, key_id))


def test_it_adds_nothing_to_the_state_of_the_model():
    objective = make_objective(key_ids=KEYS)
    assert {name.removeprefix("model.") for name in objective.state_dict()} == set(
        objective.model.state_dict()
    )


@pytest.mark.parametrize(
    "config", [LossConfig(), LossConfig(key_mode="sample", loss_chunk=16, z_loss=1e-3)]
)
def test_it_compiles_in_one_piece(config):
    objective, batch = make_objective(config, key_ids=KEYS), make_batch(padded=True)
    expected = objective(batch)
    torch.compiler.reset()
    sums = torch.compile(objective, fullgraph=True, backend="aot_eager")(batch)
    assert isinstance(sums, LossSums)
    torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(
        gradients(objective, sums.objective), gradients(objective, expected.objective)
    )


@pytest.fixture
def process_group(tmp_path):
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("config", [LossConfig(), LossConfig(loss_chunk=16, label_smoothing=0.1)])
def test_it_runs_under_distributed_data_parallel(config, process_group):
    objective, batch = make_objective(config, key_ids=KEYS), make_batch(padded=True)
    expected = objective(batch)
    wanted = gradients(objective, expected.objective)
    sums = torch.nn.parallel.DistributedDataParallel(objective)(batch)
    assert isinstance(sums, LossSums)
    assert all(map(torch.equal, sums, expected))
    sums.objective.backward()
    found = {name: part.grad for name, part in objective.model.named_parameters()}
    torch.testing.assert_close(found, wanted)
