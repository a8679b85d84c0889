import re
import shutil

import pytest
import torch

import gptlab
from gptlab.cli.generate import main

SHAPE = ["--vocab_size", 270, "--embed_dim", 16, "--n_heads", 2, "--num_layers", 1]


def test_the_newest_run_is_the_default(trained, command):
    code, out, err = command(main, "--prompt", "The cat", "--length", 5, "--seed", 1)
    assert code == 0
    assert out.startswith("The cat")
    assert str(trained) in err


def test_a_seed_reproduces_and_temperature_0_is_greedy(trained, command):
    for argv in (["--seed", 7], ["--temperature", 0]):
        runs = [command(main, "--prompt", "The", "--length", 9, *argv)[1] for _ in range(2)]
        assert runs[0] == runs[1]


def test_several_samples_differ(trained, command):
    code, out, _ = command(main, "--prompt", "The", "--num_samples", 3, "--length", 8, "--seed", 1)
    samples = out.split("--- ")[1:]
    assert code == 0
    assert len(samples) == len({sample.partition("\n")[2] for sample in samples}) == 3


def test_a_bare_state_dict(trained, command):
    model, _ = gptlab.load(trained)
    torch.save(model.state_dict(), "model.pth")
    state = ["--model_path", "model.pth", "--tokenizer_path", "tok", *SHAPE]
    argv = ["--prompt", "The", "--length", 5, "--seed", 1]
    code, out, _ = command(main, *argv, *state)
    assert (code, out) == (0, command(main, *argv, "--model_path", trained)[1])


def test_a_bare_state_dict_of_another_arrangement(workplace, command):
    config = gptlab.ModelConfig(
        vocab_size=270,
        embed_dim=16,
        n_heads=2,
        num_layers=1,
        seq_len=32,
        expansion_factor=3,
        positions="learned",
        norm="rmsnorm",
        activation="swiglu",
        bias=True,
        qk_norm=False,
        tie_embeddings=True,
        n_kv_heads=1,
    )
    model = gptlab.GPT(config, seed=0)
    torch.save(model.state_dict(), "model.pth")
    argv = ["--model_path", "model.pth", "--tokenizer_path", "tok", "--norm", "rmsnorm", *SHAPE]
    code, out, _ = command(main, "--prompt", "The", "--temperature", 0, "--length", 9, *argv)
    generator = gptlab.Generator(model, gptlab.load_tokenizer("tok"))
    expected = generator.generate("The", gptlab.SamplingConfig(temperature=0, max_new_tokens=9))
    assert (code, out) == (0, f"The{expected}\n")


def test_stop_is_not_printed(trained, command):
    _, full, _ = command(main, "--prompt", "The", "--seed", 3, "--length", 20)
    stop = full.rstrip("\n")[-2:]
    _, out, _ = command(main, "--prompt", "The", "--seed", 3, "--length", 20, "--stop", stop)
    assert out.rstrip("\n") == "The" + full[3:].partition(stop)[0]


def test_a_context_beyond_seq_len_is_said(trained, command):
    code, _, err = command(main, "--prompt", "The", "--length", 40)
    assert code == 0
    assert "newer half" in err


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--model_path", "missing"], "missing"),
        (["--model_path", "tok"], "tok"),
        (["--model_path", "text.txt", "--tokenizer_path", "tok", *SHAPE], "text.txt"),
        (["--model_path", "model.pth"], "--tokenizer_path"),
        (["--model_path", "model.pth", "--tokenizer_path", "tok"], "--vocab_size, --embed_dim"),
        (
            ["--model_path", "model.pth", "--tokenizer_path", "tok", *SHAPE, "--embed_dim", 32],
            "check --vocab_size",
        ),
        (["--embed_dim", 32], "--embed_dim 16"),
        (["--num_layers", 2], "--num_layers 1"),
        (["--vocab_size", 300], "--vocab_size 270"),
        (["--tokenizer_path", "other"], "has 280 tokens, but the model knows 270"),
        (["--tokenizer_path", "missing"], "missing"),
        (["--temperature", -1], "temperature"),
        (["--top_p", 1.5], "top_p"),
        (["--length", 0], "length"),
        (["--device", "warp"], "warp"),
        (["--runs_dir", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(trained, command, argv, named):
    model, _ = gptlab.load(trained)
    torch.save(model.state_dict(), "model.pth")
    gptlab.BPETokenizer([], special_tokens=[f"<{i}>" for i in range(24)]).save("other")
    code, out, err = command(main, "--prompt", "The", *argv)
    assert code == 2
    assert err.splitlines()[-1].startswith("gptlab-generate: ")
    assert named in err
    assert "Traceback" not in err + out


def test_a_damaged_checkpoint_is_named(trained, command):
    (weights,) = trained.glob("last-*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    shutil.rmtree(next(trained.glob("best-*")))
    code, _, err = command(main, "--prompt", "The")
    assert code == 2
    assert "model.safetensors is damaged" in err


def test_a_run_without_a_whole_checkpoint_is_not_the_newest(trained, command):
    half = trained.parent / "later" / ".last-1.77"
    half.mkdir(parents=True)
    (half / "model.safetensors").touch()
    code, _, err = command(main, "--prompt", "The", "--length", 3)
    assert code == 0
    assert str(trained) in err


@pytest.mark.parametrize("drafter", [["--prompt_lookup", 2], ["--draft_model", "draft"]])
def test_a_drafter_makes_the_same_text_and_says_how_well_it_guessed(trained, command, drafter):
    shutil.copytree(trained, "draft")
    argv = ["--prompt", "The cat", "--length", 12, "--temperature", 0, "--model_path", trained]
    _, plain, err = command(main, *argv)
    assert "draft" not in err
    code, out, err = command(main, *argv, *drafter, "--draft_length", 3)
    assert (code, out) == (0, plain)
    assert re.fullmatch(
        r"draft: \d+ of \d+ proposed tokens accepted \(\d+%\), \d+\.\d\d tokens a pass",
        err.splitlines()[-1],
    )


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--prompt_lookup", 2, "--draft_model", "other"], "exclude each other"),
        (["--draft_length", 3], "--draft_length is 3, but nothing proposes tokens"),
        (["--prompt_lookup", 0], "prompt_lookup"),
        (["--draft_model", "text.txt"], "--draft_model is text.txt, a file; name a run"),
        (["--draft_model", "missing"], "missing"),
        (["--draft_model", "other"], "vocab_size is 264, but the model's is 270; choose a draft"),
    ],
)
def test_a_mistaken_drafter_is_one_line(trained, command, argv, named):
    tokenizer = gptlab.train_bpe(["text.txt"], vocab_size=264)
    shape = {"vocab_size": 264, "embed_dim": 16, "n_heads": 2, "num_layers": 1, "seq_len": 8}
    gptlab.save("other", gptlab.GPT(gptlab.ModelConfig(**shape), seed=0), tokenizer)
    code, _, err = command(main, "--prompt", "The", "--model_path", trained, *argv)
    assert code == 2
    assert named in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("gptlab-generate: ")


@pytest.mark.parametrize(
    "flags",
    [
        ["--precision", "bf16"],
        ["--quantize", "int8"],
        ["--quantize", "int4", "--precision", "bf16"],
        ["--num_beams", "2"],
        ["--compile", "off"],
    ],
)
def test_how_it_computes(trained, command, flags):
    code, out, err = command(main, "--prompt", "The", "--length", 3, *flags)
    assert code == 0, err
    assert out.startswith("The")


def test_beams_find_one_text(trained, command):
    code, _, err = command(main, "--num_beams", 2, "--num_samples", 2)
    assert code == 2
    assert "--num_beams is 2, but beam search finds one text" in err
    assert "leave out --num_samples" in err
