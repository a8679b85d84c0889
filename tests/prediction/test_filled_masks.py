"""What an encoder finds in the place of masks."""

import json

import pytest
import torch

import gptlab
from gptlab.cli.export import main as export
from gptlab.cli.generate import main as generate
from gptlab.cli.predict import main
from gptlab.errors import ConfigError, TokenizerError
from gptlab.prediction import ModelWithHead, fill_masks
from gptlab.tokenizer import BPETokenizer
from gptlab.tokenizer.mask import ordinary_ids, with_mask

SHAPE = {"embed_dim": 16, "num_layers": 1, "n_heads": 2, "seq_len": 24}
TEXTS = ["a <MASK>c", "<MASK>", "long and<MASK> longer <MASK>"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An encoder on bytes."""
    monkeypatch.chdir(tmp_path)
    tokenizer = with_mask(BPETokenizer([]))
    config = gptlab.ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    return gptlab.save("encoder", gptlab.Encoder(config, seed=0), tokenizer)


def test_candidates_are_the_likeliest_tokens_that_stand_for_text(folder):
    model, tokenizer = gptlab.load(folder)
    found = fill_masks(model, tokenizer, TEXTS, candidates=3, batch_size=2)
    for text, answer in zip(TEXTS, found, strict=True):
        (mask,) = tokenizer.encode("<MASK>", allowed_special="all")
        ids = tokenizer.encode(text.replace(" <MASK>", "<MASK>"), allowed_special="all")
        places = [place for place, token in enumerate(ids) if token == mask]
        assert len(answer.masks) == len(places) == text.count("<MASK>")
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0]
        for place, candidates in zip(places, answer.masks, strict=True):
            of_text = ordinary_ids(tokenizer)
            shares = logits[place, of_text].softmax(dim=-1)
            best = shares.argsort(descending=True)[:3].tolist()
            assert [one.token for one in candidates] == [
                tokenizer.decode([of_text[number]]) for number in best
            ]
            expected = shares[best].tolist()
            assert [one.probability for one in candidates] == pytest.approx(expected, rel=1e-4)
            ids[place] = of_text[best[0]]
        assert answer.filled == tokenizer.decode(ids)


def test_what_can_not_be_filled_is_refused(folder):
    model = ModelWithHead.load(folder)
    with pytest.raises(ConfigError, match=r"the text 'no' has no <MASK>, in whose place"):
        model.predict(["a<MASK>", "no"])
    with pytest.raises(ConfigError, match=r"has 31 tokens, but the model reads 24; give a shorter"):
        model.predict(["x" * 30 + "<MASK>"])
    plain = BPETokenizer([])
    with pytest.raises(TokenizerError, match="give an encoder that was trained without --head"):
        fill_masks(model.backbone, plain, ["a<MASK>"])


def test_the_command_answers_with_json(folder, command):
    code, out, err = command(
        main, "--model_path", folder, "--text", *TEXTS, "--candidates", 2, "--device", "cpu"
    )
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["text"] for answer in answers] == TEXTS
    assert [len(one) for answer in answers for one in answer["masks"]] == [2, 2, 2, 2]
    longer = ModelWithHead.load(folder).predict(TEXTS)
    assert [len(one) for answer in longer for one in answer["masks"]] == [5, 5, 5, 5]
    assert longer[0]["masks"][0][:2] == answers[0]["masks"][0]


def test_a_flag_that_does_nothing_with_the_model_is_refused(folder, command):
    code, _, err = command(main, "--model_path", folder, "--text", "a<MASK>", "--temperature", 1)
    assert (code, err) == (
        2,
        "gptlab-predict: --temperature is for language models, but encoder is of architecture "
        "encoder; leave it out\n",
    )
    tokenizer = BPETokenizer([])
    config = gptlab.ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    gptlab.save("gpt", gptlab.GPT(config, seed=0), tokenizer)
    code, _, err = command(main, "--model_path", "gpt", "--text", "a", "--candidates", 3)
    assert (code, err) == (
        2,
        "gptlab-predict: --candidates is for encoders without a head, but gpt is of architecture "
        "gpt; leave it out\n",
    )


def test_what_an_encoder_can_not_do_is_one_line(folder, command):
    for argv in (
        (generate, "--model_path", folder, "--prompt", "a"),
        (generate, "--model_path", folder, "--draft_model", folder, "--prompt", "a"),
        (export, folder, "--format", "hf", "--output", "out"),
        (export, folder, "--format", "gguf", "--output", "out"),
    ):
        code, out, err = command(*argv)
        assert (code, out) == (2, "")
        assert "of architecture" in err.splitlines()[-1]
        assert "encoder" in err.splitlines()[-1]
