"""A model that no family has is computed by transformers with gptlab's own module."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gptlab
from gptlab.config import ModelConfig
from gptlab.errors import ConfigError
from gptlab.interop import read_huggingface, write_huggingface
from gptlab.interop.families import family_of
from gptlab.model import GPT
from gptlab.model.quantize import quantize

CONFIG = ModelConfig(vocab_size=270, seq_len=24, embed_dim=24, num_layers=2, n_heads=2)


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """What transformers copies of a folder's code stays in the test's own folder."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))


@pytest.fixture
def theirs(tmp_path):
    tokenizer = gptlab.train_bpe(texts=["the cat sat on the mat " * 20], vocab_size=270)
    model = GPT(CONFIG, seed=0).eval()
    assert write_huggingface(tmp_path / "f", model, tokenizer).name == "gptlab"
    return model, tokenizer, tmp_path / "f"


def test_the_same_logits_and_texts(theirs):
    ours, tokenizer, folder = theirs
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.tensor([[5, 70, 200, 9, 33]])
    assert torch.equal(model(ids).logits, ours(ids))
    expected = torch.nn.functional.cross_entropy(ours(ids)[0, :-1], ids[0, 1:])
    assert torch.equal(model(ids, labels=ids).loss, expected)
    generated = model.generate(ids, max_new_tokens=6, do_sample=False)
    sampling = gptlab.SamplingConfig(max_new_tokens=6, temperature=0)
    new = gptlab.Generator(ours, tokenizer).generate_ids(ids.tolist(), sampling)
    assert generated[0, 5:].tolist()[: len(new[0])] == new[0]
    assert model.config.eos_token_id == tokenizer.eos_id


def test_padding_on_either_side_changes_nothing(theirs):
    _, _, folder = theirs
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    alone = model(torch.tensor([[5, 70, 200]])).logits[0]
    ids = torch.tensor([[0, 0, 5, 70, 200], [5, 70, 200, 0, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    padded = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(padded[0, 2:], alone)
    torch.testing.assert_close(padded[1, :3], alone)


def test_it_comes_back_as_it_was(theirs):
    ours, tokenizer, folder = theirs
    back, again = gptlab.load(folder)
    assert back.config == ours.config
    assert all(torch.equal(back.state_dict()[n], v) for n, v in ours.state_dict().items())
    assert again.fingerprint() == tokenizer.fingerprint()
    ids = AutoTokenizer.from_pretrained(folder)("the cat sat")["input_ids"]
    assert ids == tokenizer.encode("the cat sat")


def test_what_is_in_the_way_of_a_family_is_said():
    with pytest.raises(ConfigError) as error:
        family_of(CONFIG)
    assert str(error.value) == (
        "no family of models has norm 'layernorm', activation 'relu2' beside this model's other "
        "settings; the nearest, qwen3, has norm 'rmsnorm', activation 'swiglu'"
    )
    llama = CONFIG.replace(activation="swiglu", norm="rmsnorm", qk_norm=False, logit_soft_cap=30)
    with pytest.raises(ConfigError, match=r"llama, has logit_soft_cap None"):
        family_of(llama)


def test_a_quantized_model_is_not_written(tmp_path):
    with pytest.raises(ConfigError, match="8 bits a weight, which no such folder holds"):
        write_huggingface(tmp_path / "f", quantize(GPT(CONFIG, seed=0)), None)


def test_damaged_settings(theirs):
    _, _, folder = theirs
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"gptlab": {', '"other": {'))
    with pytest.raises(gptlab.GptlabError, match="it lacks the settings 'gptlab'; write the fold"):
        read_huggingface(folder)
