"""Runs that begin with a trained model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import gptlab
from gptlab.checkpoint import read_header
from gptlab.cli.train import main
from gptlab.config import TrainConfig
from gptlab.errors import GptlabError
from gptlab.model.lora import is_adapter
from gptlab.tokenizer import BPETokenizer
from gptlab.training import train
from gptlab.training.schedules import learning_rate
from gptlab.training.session import open_session
from gptlab.training.step import train_step

pytestmark = pytest.mark.usefixtures("without_plots")

DOGS = "".join(
    f"a dog ran {n % 5} times round the house and {n % 3} times back\n" for n in range(50)
)
CODE = "".join(f"<python>\ndef F{n % 7}(x): return x\n<END>\n" for n in range(40))
# float32 rounds to 6e-8, but Adam divides by what may be tiny.
ROUNDING = 2e-5


@pytest.fixture
def base(tiny) -> Path:
    """A tiny trained model, and the texts to go on with."""
    Path("dogs.txt").write_text(DOGS)
    Path("code.txt").write_text(CODE)
    return train(tiny(experiment_name="base", num_layers=3, seq_len=16)).path


@pytest.fixture
def tune(base):
    """Settings of a run that begins with `base`, with changes."""

    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{
                "init_from": str(base),
                "train_data": "dogs.txt",
                "experiment_name": "tuned",
                "batch_size": 4,
                "max_steps": 8,
                "eval_steps": 4,
                "log_every": 2,
                "sample_length": 5,
                "device": "cpu",
                "precision": "fp32",
                "attention": "reference",
                "quiet": True,
                **changes,
            }
        )

    return make


def refusal(config_or_make, **settings: object) -> str:
    """The one line with which settings, or a run of them, are refused."""
    with pytest.raises(GptlabError) as refused:
        train(config_or_make(**settings))
    (line,) = str(refused.value).splitlines()
    return line


def test_a_run_begins_with_the_model_and_takes_its_shape_and_tokenizer(base, tune):
    before, tokenizer = gptlab.load(base)
    session = open_session(tune())
    assert session.model.config == before.config.replace(attention="reference")
    assert session.config.num_layers == 3
    assert session.config.seq_len == 16
    assert session.inputs.tokenizer == tokenizer
    for name, tensor in before.state_dict().items():
        assert torch.equal(session.model.state_dict()[name], tensor), name
    result = train(tune())
    after, kept = gptlab.load(result.path)
    assert kept == tokenizer
    assert json.loads((result.path / "config.json").read_text())["init_from"] == str(base)
    assert not torch.equal(after.embedding.weight, before.embedding.weight)


def test_a_run_is_found_by_its_name(tune):
    assert open_session(tune(init_from="base")).config.num_layers == 3


def test_weights_of_16_bits_learn_in_float32(base, tune):
    model, tokenizer = gptlab.load(base)
    gptlab.save("half", model.to(torch.bfloat16), tokenizer)
    session = open_session(tune(init_from="half"))
    assert {p.dtype for p in session.model.parameters()} == {torch.float32}
    assert torch.equal(session.model.embedding.weight, model.embedding.weight.float())


def by_hand(config: TrainConfig, steps: int, forward, weights: dict[str, torch.Tensor]):
    """AdamW on `weights`, in place, as the run of `config` should do it."""
    session = open_session(config.model_copy(update={"experiment_name": "by_hand"}))
    for parameter in weights.values():
        parameter.requires_grad_(True)
    groups = [
        {"params": [p for p in weights.values() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in weights.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), foreach=False, fused=False)
    for step in range(steps):
        batch = session.batch(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total_steps=steps, config=config)
        logits = forward(batch.inputs)
        per_token = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        counts = torch.ones_like(per_token)
        if batch.weights is not None:
            counts = batch.weights.flatten().float()
        optimizer.zero_grad()
        ((per_token * counts).sum() / counts.sum()).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()


@pytest.mark.parametrize("tied", [False, True])
def test_the_last_layers_alone_learn_as_by_hand(base, tiny, tune, tied):
    if tied:
        train(tiny(experiment_name="tied", num_layers=3, tie_embeddings=True))
        base = Path("runs/tied")
    config = tune(init_from=str(base), train_last_layers=2, learning_rate=1e-2)
    trained, _ = gptlab.load(train(config).path)
    model, _ = gptlab.load(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    last = ("blocks.1.", "blocks.2.", "norm.", "lm_head.")
    weights = {name: p for name, p in model.named_parameters() if name.startswith(last)}
    assert 0 < len(weights) < len(before)
    by_hand(config, 8, model, weights)
    for name, tensor in trained.state_dict().items():
        if name in weights:
            torch.testing.assert_close(tensor, weights[name].data, rtol=0, atol=ROUNDING)
            assert (tensor - before[name]).abs().max() > 100 * ROUNDING, name
        else:
            assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("bits", ["full", "int8"])
def test_lora_learns_as_by_hand_on_w_plus_s_b_a(base, tune, bits):
    config = tune(lora_rank=2, lora_alpha=6, lora_base=bits, learning_rate=1e-2)
    session = open_session(config)
    state = {name: t.clone() for name, t in session.model.state_dict().items()}
    plain = gptlab.load(base)[0]
    dense = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    for name, layer in session.model.named_modules():
        if hasattr(layer, "dense"):
            dense[f"{name}.weight"] = layer.dense()
    adapters = {name: tensor for name, tensor in state.items() if is_adapter(name)}
    assert len(adapters) == 3 * 4 * 2

    def forward(tokens):
        weights = dict(dense)
        for name, a in adapters.items():
            if name.endswith("lora_a"):
                b, weight = adapters[name[:-1] + "b"], name.replace("lora_a", "weight")
                weights[weight] = weights[weight] + 6 / 2 * b @ a
        return torch.func.functional_call(plain, weights, (tokens,))

    by_hand(config, 8, forward, adapters)
    for _ in range(8):
        train_step(session, session.objective)
    for name, tensor in session.model.state_dict().items():
        if name in adapters:
            torch.testing.assert_close(tensor, adapters[name].data, rtol=0, atol=ROUNDING)
            assert not torch.equal(tensor, state[name])
        else:
            assert torch.equal(tensor, state[name])


def test_a_shorter_context_travels_with_the_model_and_a_longer_one_needs_rope(base, tiny, tune):
    model, _ = gptlab.load(train(tune(max_seq_length=8)).path)
    assert model.config.seq_len == 8
    model, _ = gptlab.load(train(tune(seq_len=24, experiment_name="longer")).path)
    assert model.config.seq_len == 24
    train(tiny(experiment_name="learned", positions="learned"))
    cut, _ = gptlab.load(train(tune(init_from="learned", seq_len=8, experiment_name="cut")).path)
    assert cut.position_embedding.weight.shape == (8, 16)
    line = refusal(tune, init_from="learned", seq_len=24, experiment_name="far")
    assert line == (
        "seq_len is 24, but the model has learned 16 positions and knows no others; write "
        "--seq_len 16 or less"
    )


def test_a_context_about_as_long_as_the_text_is_fine(tune, tiny):
    train(tiny(experiment_name="long", seq_len=1024, max_steps=1, batch_size=1))
    assert train(tune(init_from="long", max_steps=2, batch_size=1)).steps == 2
    Path("short.txt").write_text(DOGS[:500])
    line = refusal(tune, init_from="long", train_data="short.txt", experiment_name="short")
    assert "one window takes 1,025; write a smaller --seq_len" in line


def test_dropout_is_the_models_unless_given(tiny, tune):
    train(tiny(experiment_name="dropping", dropout=0.25, max_steps=1))
    assert open_session(tune(init_from="dropping")).model.config.dropout == 0.25
    assert open_session(tune(init_from="dropping", dropout=0.0)).model.dropout.p == 0.0


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"embed_dim": 24}, "embed_dim is 24, but runs/base has 16; leave it out"),
        ({"n_kv_heads": 1}, "n_kv_heads is 1, but runs/base has 2; leave it out"),
        ({"positions": "learned"}, "positions is learned, but runs/base has rope; leave it out"),
        (
            {"vocab_size": 300},
            "the vocabulary is 300, but runs/base has 270; leave --tgt_vocab_size out",
        ),
        (
            {"tokenizer": "other"},
            "tokenizer other has 260 tokens, but that of runs/base has 270; leave --tokenizer out, "
            "for the model knows its own ids alone",
        ),
        ({"train_last_layers": 4}, "train_last_layers is 4, but the model has 3 layers; give that"),
        ({"lora_rank": 1, "lora_modules": "gate_proj"}, "lora_modules has 'gate_proj', but the mo"),
        ({"special_tokens": "<EOS>"}, "the special token '<EOS>' is a token already"),
        ({"init_from": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_what_contradicts_the_model_is_refused(base, tune, settings, line):
    BPETokenizer([]).save("other")
    assert refusal(tune, **settings).startswith(line)
    assert not Path("runs/tuned").exists()


def test_the_models_own_settings_may_be_said_again(tune):
    same = {"embed_dim": 16, "n_kv_heads": 2, "head_width": 8, "tgt_vocab_size": 270}
    assert open_session(tune(**same)).config.embed_dim == 16


def test_a_quantized_model_does_not_learn(base, tune):
    model, tokenizer = gptlab.load(base)
    gptlab.save("small", gptlab.quantize(model), tokenizer)
    line = refusal(tune, init_from="small")
    assert line.startswith("the model has 8 bits a weight, too few to train it; give the one")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"train_last_layers": 2},
            "train_last_layers is for a model that is trained already; name it with --init_from",
        ),
        ({"special_tokens": ["<a>"]}, "special_tokens is for a model that is trained already"),
        ({"init_from": "x", "lora_alpha": 2}, "lora_alpha does nothing without lora_rank; write"),
        ({"init_from": "x", "lora_base": "int8"}, "lora_base does nothing without lora_rank"),
        (
            {"init_from": "x", "lora_rank": 2, "train_last_layers": 1},
            "train_last_layers and lora_rank exclude each other",
        ),
        (
            {"init_from": "x", "lora_rank": 2, "lora_modules": ["q_proj"]},
            "lora_modules has 'q_proj', which is no projection; choose from qkv_proj, o_proj, "
            "up_proj, gate_proj, down_proj",
        ),
        ({"warmup_steps": 2, "warmup_share": 0.1}, "warmup_steps and warmup_share say the same"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(settings, line):
    with pytest.raises(GptlabError) as refused:
        TrainConfig(train_data="x.txt", **settings)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


def test_the_preset_is_for_small_steps_and_lora_for_larger_ones(base, tune, command):
    tune()
    flags = ["--train_data=dogs.txt", f"--init_from={base}", "--preset=finetune", "--max_steps=2"]
    more = ["--device=cpu", "--quiet", "--batch_size=2"]
    assert command(main, *flags, *more, "--experiment_name=plain")[0] == 0
    saved = json.loads(Path("runs/plain/config.json").read_text())
    assert (saved["learning_rate"], saved["warmup_share"]) == (2e-5, 0.2)
    assert (saved["schedule"], saved["min_learning_rate"]) == ("linear", 0.0)
    assert command(main, *flags, *more, "--experiment_name=lora", "--lora_rank=2")[0] == 0
    assert json.loads(Path("runs/lora/config.json").read_text())["learning_rate"] == 2e-4
    given = ("--experiment_name=given", "--lora_rank=2", "--learning_rate=1e-3", "--warmup_steps=1")
    assert command(main, *flags, *more, *given)[0] == 0
    saved = json.loads(Path("runs/given/config.json").read_text())
    assert (saved["learning_rate"], saved["warmup_share"], saved["warmup_steps"]) == (1e-3, None, 1)


def test_a_share_of_the_run_warms_up():
    config = TrainConfig(train_data="x", warmup_share=0.2, learning_rate=1.0, schedule="linear")
    rates = [learning_rate(step, total_steps=50, config=config) for step in range(50)]
    assert rates[0] == 0.1
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    # On the shipped stories, whose warm-up is in steps, too.
    assert TrainConfig(warmup_share=0.1).warmup_steps is None


def test_special_tokens_are_found_in_texts_and_prompts(tune):
    result = train(tune(train_data="code.txt", special_tokens=["<python>", "<END>"]))
    model, tokenizer = gptlab.load(result.path)
    assert model.config.vocab_size == tokenizer.vocab_size == 272
    assert tokenizer.encode("<python>\n<END>") == [270, 10, 271]
    session = open_session(
        tune(train_data="code.txt", special_tokens=["<python>", "<END>"], experiment_name="again")
    )
    read = session.inputs.train[0].dataset
    ids = torch.cat([session.batch(step).inputs.flatten() for step in range(20)])
    assert {270, 271} <= set(ids.tolist())
    assert len(read) < len(CODE)
    assert gptlab.Generator(model, tokenizer).encode_prompt("<python>") == [270]


def test_new_rows_are_as_add_special_tokens_draws_them(base, tune):
    session = open_session(tune(special_tokens=["<python>"], seed=7))
    expected, _ = gptlab.add_special_tokens(*gptlab.load(base), ["<python>"], seed=7)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(session.model.state_dict()[name], tensor), name


def test_a_vocabulary_with_room_keeps_it(base, tune):
    model, tokenizer = gptlab.load(base)
    gptlab.save("padded", gptlab.model.grow_vocabulary(model, 288), tokenizer)
    result = train(tune(init_from="padded", special_tokens=["<python>"], max_steps=4))
    model, tokenizer = gptlab.load(result.path)
    assert model.config.vocab_size == 288
    assert tokenizer.vocab_size == 271
    assert train(tune(init_from="padded", resume=True, max_steps=6)).steps == 6
    assert gptlab.load(result.path)[0].config.vocab_size == 288


def test_text_is_made_lower_case_wherever_the_model_is_used(tune):
    Path("dogs.txt").write_text(DOGS.upper())
    result = train(tune(lower_case=True))
    _, tokenizer = gptlab.load(result.path)
    assert tokenizer.encode("A DOG") == tokenizer.encode("a dog")
    with_capitals = open_session(tune(experiment_name="capitals")).inputs.train[0].dataset
    lower = open_session(tune(experiment_name="lower", lower_case=True)).inputs.train[0].dataset
    assert len(lower) < len(with_capitals)


def test_a_new_run_can_be_in_lower_case_too(tiny):
    Path("loud.txt").write_text(DOGS.upper())
    result = train(tiny(train_data="loud.txt", lower_case=True, max_steps=2))
    _, tokenizer = gptlab.load(result.path)
    assert b" dog" in {left + right for left, right in tokenizer.merges} or tokenizer.merges
    assert all(
        (left + right).islower() or not (left + right).isalpha() for left, right in tokenizer.merges
    )
    assert tokenizer.encode("DOG") == tokenizer.encode("dog")
    session = open_session(tiny(train_data="loud.txt", lower_case=True, experiment_name="again"))
    assert session.inputs.tokenizer == tokenizer


def test_prepared_data_must_be_of_the_models_tokenizer(base, tune, prepare):
    tokenizer = gptlab.load(base)[1]
    prepare("fits", [DOGS], dev=["a dog ran home again"], tokenizer=tokenizer)
    assert train(tune(train_data="fits")).steps == 8
    prepare("other", [DOGS], dev=["a dog ran home again"])
    assert "another tokenizer" in refusal(tune, train_data="other", experiment_name="x")


def test_a_tokenizer_whose_ids_stand_for_other_texts_is_warned_of(base, tune):
    own = gptlab.load(base)[1]
    last = own.vocab_size - len(own.special_tokens) - 1
    other = gptlab.BPETokenizer(
        [*own.merges[:-1], (b"q", b"x")], special_tokens=list(own.special_tokens)
    )
    assert (other.vocab_size, other.decode([last])) == (own.vocab_size, "qx")
    other.save("other")
    said = f"1 of {own.vocab_size} ids of the tokenizer stand for other texts than in that of "
    with pytest.warns(UserWarning, match=said):
        open_session(tune(tokenizer="other"))


def test_the_model_in_init_from_is_not_needed_to_go_on(base, tune):
    settings = {"max_steps": 8, "save_every": 4, "dropout": 0.2, "special_tokens": ["<python>"]}
    straight = train(tune(**settings, train_last_layers=2, ema_decay=0.9)).path
    shutil.rmtree(base)
    again = TrainConfig(
        resume=str(straight / "tuned_s4"), experiment_name="resumed", device="cpu", quiet=True
    )
    resumed = train(again).path
    for name in ("last-8", "best-8"):
        for file in (straight / name).rglob("*.safetensors"):
            other = resumed / name / file.relative_to(straight / name)
            assert other.read_bytes() == file.read_bytes(), file
    line = refusal(TrainConfig, resume=str(resumed), init_from=str(base), train_last_layers=1)
    assert "can't be resumed with other settings: train_last_layers (2, not 1)" in line


def test_what_stands_still_is_part_of_every_checkpoint(base, tune):
    result = train(tune(train_last_layers=1, save_every=4))
    for checkpoint in (path for path in result.path.iterdir() if path.is_dir()):
        model, _ = gptlab.load(checkpoint)
        assert torch.equal(model.embedding.weight, gptlab.load(base)[0].embedding.weight)
        assert "lora" not in read_header(checkpoint)
