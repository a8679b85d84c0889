"""What is odd, damaged or hostile in a folder of transformers is one clear line."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gptlab.errors import CheckpointError
from gptlab.interop import read_huggingface
from gptlab.interop.families import FAMILIES
from gptlab.interop.settings import read_settings
from interop.peers import LENGTH, SHAPE, make_peer, save_peer

IDS = torch.tensor([[1, 5, 130, 3]])
SMALL_SHARDS = "20KB"


def change(folder: Path, **settings: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def rewrite(folder: Path, change_tensors) -> None:
    tensors = load_file(folder / "model.safetensors")
    change_tensors(tensors)
    save_file(tensors, folder / "model.safetensors")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        read_huggingface(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def llama(tmp_path) -> Path:
    save_peer("llama", tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def shards(tmp_path) -> Path:
    make_peer("llama").save_pretrained(tmp_path / "shards", max_shard_size=SMALL_SHARDS)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    return tmp_path / "shards"


def as_bin(folder: Path, *, sharded: bool = False, **how: object) -> None:
    """Turn the folder's safetensors into pickles."""
    for path in folder.glob("model*.safetensors"):
        name = path.name.replace("model", "pytorch_model").replace("safetensors", "bin")
        torch.save(load_file(path), folder / name, **how)
        path.unlink()
    if sharded:
        index = folder / "model.safetensors.index.json"
        text = index.read_text().replace("model-", "pytorch_model-").replace("safetensors", "bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()


def test_shards_and_pickles_hold_the_same_model(llama, shards, tmp_path):
    expected = read_huggingface(llama)(IDS)
    assert torch.equal(read_huggingface(shards)(IDS), expected)
    as_bin(shards, sharded=True)
    assert torch.equal(read_huggingface(shards)(IDS), expected)
    as_bin(llama)
    assert torch.equal(read_huggingface(llama)(IDS), expected)


def test_a_pickle_of_the_old_kind(llama):
    expected = read_huggingface(llama)(IDS)
    as_bin(llama, _use_new_zipfile_serialization=False)
    assert torch.equal(read_huggingface(llama)(IDS), expected)


def test_a_head_that_shares_memory_with_the_embedding_gets_its_own(llama):
    tensors = load_file(llama / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    (llama / "model.safetensors").unlink()
    torch.save(tensors, llama / "pytorch_model.bin")
    model = read_huggingface(llama)
    model.lm_head.weight.data.zero_()
    assert model.embedding.weight.abs().sum() > 0


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [pickle.dump, torch.save])
def test_a_pickle_with_code_in_it_is_not_run(llama, tmp_path, writer):
    tensors = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    with (llama / "pytorch_model.bin").open("wb") as stream:
        writer({**tensors, "model.norm.weight": Hostile(tmp_path / "owned")}, stream)
    assert "is damaged, or holds more than tensors, which gptlab does not load" in refusal(llama)
    assert not (tmp_path / "owned").exists()


def test_stored_masks_and_tables_are_left_out(tmp_path):
    for name, extra in {
        "gpt2": {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.1.attn.masked_bias": torch.ones(1)},
        "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(7)},
        "gpt_neox": {
            "gpt_neox.layers.0.attention.bias": torch.ones(4, 4, dtype=torch.bool),
            "gpt_neox.layers.1.attention.rotary_emb.inv_freq": torch.ones(2),
        },
    }.items():
        save_peer(name, tmp_path / name)
        expected = read_huggingface(tmp_path / name)(IDS)
        rewrite(tmp_path / name, lambda tensors, extra=extra: tensors.update(extra))
        assert torch.equal(read_huggingface(tmp_path / name)(IDS), expected)


def test_names_without_the_prefix_and_a_stored_tied_head(tmp_path):
    save_peer("gpt2", tmp_path)
    expected = read_huggingface(tmp_path)(IDS)

    def shorten(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["lm_head.weight"] = tensors["wte.weight"].clone()

    rewrite(tmp_path, shorten)
    assert torch.equal(read_huggingface(tmp_path)(IDS), expected)


@pytest.mark.parametrize(
    ("change_tensors", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), "lacks the tensor 'model.norm.weight'"),
        (lambda t: t.pop("lm_head.weight"), "lacks the tensor 'lm_head.weight'"),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(42)}),
            "has an unknown tensor 'model.layers.0.self_attn.q_proj.bias'",
        ),
        (
            lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(55, 42)}),
            "has an unknown tensor 'model.layers.2.mlp.up_proj.weight'",
        ),
        (
            lambda t: t.update(
                {
                    "model.layers.0.mlp.up_proj.weight": t["model.layers.0.mlp.down_proj.weight"],
                    "model.layers.0.mlp.down_proj.weight": t["model.layers.0.mlp.up_proj.weight"],
                }
            ),
            r"'model.layers.0.mlp.up_proj.weight' is (42, 55), but its config.json makes it (55,",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(42, dtype=torch.int8)}),
            "has numbers of type int8, as quantized models do",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(42).to(torch.float8_e4m3fn)}),
            "'model.norm.weight' has numbers of type F8_E4M3, which gptlab does not read",
        ),
    ],
)
def test_tensors_that_do_not_fit(llama, change_tensors, words):
    rewrite(llama, change_tensors)
    assert words in refusal(llama)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file(llama, share):
    path = llama / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "model.safetensors is missing or damaged" in refusal(llama)


def test_swapped_shards(shards):
    first, second, *_ = sorted(shards.glob("model-*.safetensors"))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    message = refusal(shards)
    assert "model-00001-of-" in message
    assert "which says otherwise; files may be swapped" in message


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/hostname", "a\\b", "..", ""])
def test_an_index_that_leads_outside(shards, name):
    path = shards / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    assert f"names the file '{name}', which lies outside of it" in refusal(shards)


def test_a_shard_that_is_a_link_to_outside(shards, tmp_path):
    shard = min(shards.glob("model-*.safetensors"))
    shard.rename(tmp_path / "outside")
    shard.symlink_to(tmp_path / "outside")
    assert f"names the file '{shard.name}', which lies outside of it" in refusal(shards)
    shard.unlink()
    assert f"{shard} is missing; download it again" in refusal(shards)


def test_links_within_the_cache_of_the_hub(shards, tmp_path):
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    (snapshot.parent.parent / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(shards.iterdir()):
        path.rename(snapshot.parent.parent / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert read_huggingface(snapshot)(IDS).shape == (1, 4, 131)


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index(shards, text):
    (shards / "model.safetensors.index.json").write_text(text)
    assert "index.json is damaged; download it again" in refusal(shards)


def test_no_weights_and_no_settings(llama):
    (llama / "model.safetensors").unlink()
    assert "holds no weights (no model.safetensors, pytorch_model.bin" in refusal(llama)
    (llama / "config.json").write_text("[1]")
    assert "config.json is no JSON object" in refusal(llama)
    (llama / "config.json").unlink()
    assert "config.json can't be read: No such file" in refusal(llama)


def test_another_architecture_is_named_with_what_is_supported(llama):
    change(llama, model_type="bert", architectures=["BertModel"])
    message = refusal(llama)
    assert "its architecture is BertModel (model_type 'bert'), which gptlab does not re" in message
    assert all(f"{name} ({family.architecture})" in message for name, family in FAMILIES.items())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"attention_bias": True}, "setting attention_bias is True, which gptlab does not compute"),
        ({"mlp_bias": True}, "setting mlp_bias is True"),
        ({"hidden_act": "relu"}, "setting hidden_act is 'relu', which gptlab does not compute; s"),
        ({"quantization_config": {"bits": 4}}, "setting quantization_config is {'bits': 4}"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "setting rope_type is 'longrope'"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_scaling of type linear lacks factor"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "truncate": False}},
            "setting truncate of rope_scaling is False",
        ),
        ({"rope_parameters": {"full_attention": {}}}, "its rope_parameters differ by layer"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"num_attention_heads": 0}, "it makes no model: "),
        ({"hidden_size": 0}, "it makes no model: "),
        ({"hidden_size": "many"}, "it makes no model: "),
        ({"hidden_act": ["silu"]}, "it makes no model: "),
        ({"rope_parameters": 4}, "it makes no model: "),
        ({"rope_parameters": {"rope_type": "yarn", "factor": "x"}}, "it makes no model: "),
        ({"model_type": None, "architectures": 4}, "its architecture is unnamed"),
        ({"hidden_size": 36}, "but its config.json makes it"),
        ({"num_hidden_layers": 3}, "lacks the tensor 'model.layers.2."),
        ({"num_key_value_heads": 3}, "'model.layers.0.self_attn.k_proj.weight' is (14, 42), but"),
    ],
)
def test_settings_that_contradict_or_that_we_do_not_have(llama, settings, words):
    change(llama, **settings)
    assert words in refusal(llama)


def test_a_setting_that_is_missing(llama):
    path = llama / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "vocab_size": 131}))
    assert "it lacks the setting max_position_embeddings; use a complete" in refusal(llama)


@pytest.mark.parametrize(
    ("family", "settings", "words"),
    [
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "inverse_layer_idx is True",
        ),
        ("gpt2", {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        ("gpt_neox", {"attention_bias": False}, "attention_bias is False"),
        (
            "qwen3",
            {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True},
            "layer_types is ['full_attention', 'sliding_attention']",
        ),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}, "layer_types is ['full"),
    ],
)
def test_settings_of_other_families(family, settings, words):
    shape = {"n_positions": LENGTH, "n_embd": 42, "n_layer": 2, "n_head": 3, **SHAPE}
    with pytest.raises(CheckpointError) as error:
        read_settings(FAMILIES[family], {**shape, "num_hidden_layers": 2, **settings})
    assert words in str(error.value)


def test_old_and_new_spellings_of_rotary_positions():
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}
    first, second = (read_settings(FAMILIES["llama"], {**SHAPE, **how}) for how in (old, new))
    assert first == second
    assert (first.rope_theta, first.rope_scaling, first.rope_factor) == (5e5, "linear", 2.0)
    old = {"rotary_emb_base": 500, "rotary_pct": 0.3}
    new = {"rope_parameters": {"partial_rotary_factor": 0.3, "rope_theta": 500.0}}
    first, second = (read_settings(FAMILIES["gpt_neox"], {**SHAPE, **how}) for how in (old, new))
    assert first == second
    assert (first.rope_theta, first.rotary_share) == (500.0, 0.3)


def test_millions_of_layers_are_refused_before_they_are_made(llama):
    change(llama, num_hidden_layers=10**9)
    with pytest.raises(CheckpointError, match=r"lacks the tensor 'model\.layers\.2\."):
        read_huggingface(llama)
