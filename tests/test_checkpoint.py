"""A checkpoint is whole or not there, says what is wrong with it, and never runs what it loads."""

import json
import os
import pickle
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gptlab.checkpoint import (
    find_checkpoint,
    load_model,
    load_tensors,
    read_header,
    save,
    save_tensors,
    verify,
)
from gptlab.checkpoint.staging import publish_copy, remove, seal
from gptlab.config import ModelConfig
from gptlab.errors import CheckpointError
from gptlab.interop import load
from gptlab.model import GPT
from gptlab.model.quantize import quantize
from gptlab.tokenizer import BPETokenizer

CONFIG = ModelConfig(vocab_size=262, seq_len=8, embed_dim=8, num_layers=1, n_heads=2)
TOKENIZER = BPETokenizer([(b"l", b"l"), (b"h", b"e")])
TOKENS = torch.tensor([[1, 5, 250, 3]])


def make(seed: int = 0, **changes: object) -> GPT:
    return GPT(CONFIG.replace(**changes), seed=seed).eval()


def trainer(folder: Path) -> None:
    (folder / "trainer").mkdir()
    (folder / "trainer" / "state.json").write_text('{"a": 1}')


def refuse(_folder: Path) -> None:
    raise RuntimeError("no")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(tmp_path / "model", make(), TOKENIZER, step=7, extra=trainer)


@pytest.mark.parametrize("tied", [True, False])
def test_round_trip(tmp_path, tied):
    model = make(tie_embeddings=tied)
    loaded, tokenizer = load(save(tmp_path / "m", model, TOKENIZER))
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert tokenizer.fingerprint() == TOKENIZER.fingerprint()


def test_the_attention_backend_is_that_of_the_reader(tmp_path):
    save(tmp_path / "m", make(attention="flash"), TOKENIZER)
    assert load(tmp_path / "m")[0].config.attention == "auto"
    model, _ = load(tmp_path / "m", attention="reference")
    assert model.config.attention == "reference"
    assert torch.isfinite(model(TOKENS)).all()


def test_the_folder_is_one_that_a_person_can_read(folder):
    assert {"config.json", "model.safetensors", "tokenizer.json", "trainer"} <= set(names(folder))
    header = read_header(folder)
    assert (header["format"], header["version"], header["step"]) == ("gptlab", 1, 7)
    assert header["model"] == CONFIG.model_dump()
    verify(folder)


def test_the_same_model_gives_the_same_bytes(tmp_path):
    first, second = (save(tmp_path / name, make(), TOKENIZER) for name in "ab")
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_without_a_tokenizer_load_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="has no usable tokenizer") as error:
        load(save(tmp_path / "m", make()))
    assert "\n" not in str(error.value)


def test_a_checkpoint_is_replaced(folder):
    save(folder, make(seed=1), TOKENIZER)
    assert torch.equal(load(folder)[0](TOKENS), make(seed=1)(TOKENS))
    assert not (folder / "trainer").exists()
    assert names(folder.parent) == ["model"]


@pytest.mark.parametrize("name", ["thesis.txt", "config.json"])
def test_anything_else_is_not_replaced(tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("{}")
    with pytest.raises(CheckpointError, match="is no gptlab checkpoint; choose another folder"):
        save(tmp_path / "mine", make())
    assert names(tmp_path / "mine") == [name]
    with pytest.raises(CheckpointError, match="choose another folder"):
        save(tmp_path / "mine" / name, make())
    assert names(tmp_path) == ["mine"]


def test_an_empty_folder_is_filled(tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    verify(save(tmp_path / "new", make()))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save("inner", make())
    verify(tmp_path / "here" / "inner")


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="no"):
        save(tmp_path / "m", make(), extra=refuse)
    assert not names(tmp_path)


def test_a_failure_keeps_the_former_one(folder):
    with pytest.raises(RuntimeError, match="no"):
        save(folder, make(seed=1), TOKENIZER, extra=refuse)
    assert torch.equal(load(folder)[0](TOKENS), make()(TOKENS))
    assert names(folder.parent) == ["model"]


def disk_full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Path, "write_text"), (os, "fsync"), (Path, "mkdir"), (Path, "rename")],
)
def test_a_full_disk_is_one_line_and_keeps_the_former_one(folder, monkeypatch, owner, name):
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, disk_full)
        with pytest.raises(
            CheckpointError, match=r"model can't be written: No space left on device; make room"
        ) as error:
            save(folder, make(seed=1), TOKENIZER)
    assert "\n" not in str(error.value)
    assert f".model.{os.getpid()}" not in str(error.value)
    assert torch.equal(load(folder)[0](TOKENS), make()(TOKENS))
    assert names(folder.parent) == ["model"]


def test_tensors_on_a_full_disk_say_what_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "open", disk_full)
    with pytest.raises(CheckpointError, match=r"t can't be written: No space .*; make room on its"):
        save_tensors(tmp_path / "t", {"a": torch.ones(1)})


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"model can't be written: .*; choose another folder"):
        save(tmp_path / "file" / "model", make())


def test_a_kill_between_the_two_renames_leaves_the_former_one_to_readers(folder, monkeypatch):
    plain = Path.rename

    def dying(path: Path, target: Path) -> Path:
        if target == folder:
            raise KeyboardInterrupt
        return plain(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            save(folder, make(seed=1), TOKENIZER)
    assert not folder.exists()
    assert torch.equal(load(folder)[0](TOKENS), make()(TOKENS))
    assert torch.equal(load(folder.parent)[0](TOKENS), make()(TOKENS))
    save(folder, make(seed=1), TOKENIZER)
    assert names(folder.parent) == ["model"]
    assert torch.equal(load(folder)[0](TOKENS), make(seed=1)(TOKENS))


def test_a_kill_while_a_checkpoint_is_deleted_leaves_no_half_of_it(folder, monkeypatch):
    def dying(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", dying)
    with pytest.raises(KeyboardInterrupt):
        remove(folder)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(folder.parent)


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("with_trainer", [True, False])
def test_a_copy_of_a_checkpoint_is_one(folder, monkeypatch, links, with_trainer):
    if not links:
        monkeypatch.setattr(os, "link", disk_full)
    copy = folder.parent / "copy"
    publish_copy(folder, copy, trainer=with_trainer)
    verify(copy)
    assert (copy / "trainer" / "state.json").exists() == with_trainer
    expected = set(names(folder)) - (set() if with_trainer else {"trainer"})
    assert set(names(copy)) == expected
    is_shared = (copy / "model.safetensors").samefile(folder / "model.safetensors")
    assert is_shared == links
    remove(folder)
    assert torch.equal(load(copy)[0](TOKENS), make()(TOKENS))


def test_every_file_is_guarded(folder):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) >= 6
    for file in files:
        content = file.read_bytes()
        for place in {0, len(content) // 3, len(content) - 1}:
            damaged = bytearray(content)
            damaged[place] ^= 0xFF
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=file.name):
                load(folder)
        file.write_bytes(content)
        load(folder)


def test_missing_and_truncated_files_are_named(folder):
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        if file.name == "model.safetensors":
            continue
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(CheckpointError, match=file.name):
            load(folder)
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(CheckpointError, match=file.name):
            load(folder)
        file.write_bytes(content)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged; use another"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing or damaged"):
        load_model(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"format": "gptlab"}', '{"format": "other"}', "{"]
)
def test_a_foreign_or_damaged_header_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError) as error:
        find_checkpoint(folder.parent)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("way", ["../{}", "trainer/../../{}", "/{}", "..\\{}", "C:\\{}", ""])
def test_checksums_do_not_lead_out_of_the_folder(folder, way):
    (folder.parent / "other").write_text("")
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums[way.format("other")] = "0"
    (folder / "checksums.json").write_text(json.dumps(checksums))
    with pytest.raises(CheckpointError, match=r"checksums.json is missing or damaged"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"checksums.json is missing or damaged"):
        publish_copy(folder, folder.parent / "copy", trainer=True)


class Hostile:
    """Says so when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


def reseal(folder: Path) -> None:
    (folder / "checksums.json").unlink(missing_ok=True)
    seal(folder)


def test_a_pickle_in_a_checkpoint_is_never_loaded(folder, tmp_path):
    marker = tmp_path / "executed"
    hostile = pickle.dumps(Hostile(marker))
    pickle.loads(hostile)
    marker.unlink()
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        content = file.read_bytes()
        file.write_bytes(hostile)
        if file.name != "checksums.json":
            reseal(folder)
        with suppress(CheckpointError):
            load(folder)
        file.write_bytes(content)
        reseal(folder)
    for name in ("pytorch_model.bin", "optimizer.pt", "trainer/.metadata", "tokenizer.pkl"):
        (folder / name).write_bytes(hostile)
    reseal(folder)
    load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("content", ["[]", "3", '"text"'])
def test_foreign_checksums_are_refused(folder, content):
    (folder / "checksums.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"checksums.json is missing or damaged"):
        load(folder)


def test_a_foreign_version_is_refused(folder):
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(header | {"version": 2}))
    with pytest.raises(CheckpointError, match="has format version 2, but this gptlab reads 1; use"):
        read_header(folder)


def test_settings_of_a_later_gptlab_are_refused_in_one_line(folder):
    header = json.loads((folder / "config.json").read_text())
    header["model"]["warp"] = 9
    (folder / "config.json").write_text(json.dumps(header))
    with pytest.raises(CheckpointError, match="there is no setting 'warp'") as error:
        load_model(folder)
    assert str(folder / "config.json") in str(error.value)


def test_find_checkpoint(tmp_path):
    run = tmp_path / "run"
    for name, step, extra in (
        ("run_e5", 50, None),
        ("best-60", 60, None),
        ("last-9", 9, trainer),
        ("last-70", 70, trainer),
        ("run_e7", 70, None),
        ("best-8", 8, None),
        ("run_e9", 90, None),
    ):
        save(run / name, make(), step=step, extra=extra)
    assert find_checkpoint(run).name == "run_e9"
    assert find_checkpoint(run, resumable=True).name == "last-70"
    assert find_checkpoint(run / "best").name == "best-60"
    assert find_checkpoint(run / "last").name == "last-70"
    assert find_checkpoint(run / "best-8").name == "best-8"
    assert find_checkpoint(str(run / "run_e5")) == run / "run_e5"


def test_find_checkpoint_takes_names_literally(tmp_path):
    save(tmp_path / "a[b]-1", make(), step=1)
    assert find_checkpoint(tmp_path / "a[b]").name == "a[b]-1"
    with pytest.raises(CheckpointError, match="does not exist"):
        find_checkpoint(tmp_path / "a?b*")


def test_no_checkpoint_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, message in (
        ("nowhere", "does not exist; give a run"),
        ("nowhere/best", "does not exist; give a run"),
        ("empty", "holds no checkpoint; give a run"),
        ("file", "holds no checkpoint; give a run"),
    ):
        with pytest.raises(CheckpointError, match=message) as error:
            find_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value)


def test_what_a_killed_writer_left_is_not_found(tmp_path):
    run = tmp_path / "run"
    save(run / "last-5", make(), step=5, extra=trainer)
    (run / "last-5").rename(run / ".last-9.1234")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        find_checkpoint(run)
    save(run / "last-5", make(), step=5, extra=trainer)
    assert find_checkpoint(run).name == find_checkpoint(run, resumable=True).name == "last-5"
    assert find_checkpoint(run / "last").name == "last-5"


def test_tensors_of_any_layout_are_saved(tmp_path):
    tensors = {"t": torch.arange(6.0).reshape(2, 3).T, "scalar": torch.tensor(3.0)}
    save_tensors(tmp_path / "t", tensors)
    loaded = load_tensors(tmp_path / "t")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int16", "uint8", "bool"]
)
def test_tensors_of_any_type_are_read_by_the_format_s_own_library(tmp_path, dtype):
    of_type = torch.arange(7).to(getattr(torch, dtype))
    tensors = {"z": of_type, "a": torch.ones(3, 1), "none": torch.ones(0, 4), "byte": of_type[1]}
    save_tensors(tmp_path / "t", tensors, metadata={"step": "7"})
    with safe_open(tmp_path / "t", "pt") as stream:
        assert stream.metadata() == {"step": "7"}
        assert set(stream.keys()) == set(tensors)
        for name, tensor in tensors.items():
            loaded = stream.get_tensor(name)
            assert loaded.dtype == tensor.dtype
            assert torch.equal(loaded, tensor)


def test_loading_leaves_the_global_generator_alone(folder):
    before = torch.get_rng_state()
    load_model(folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [{}, {"bits": 8}, {"bits": 4, "group_size": 2}], ids=str)
@pytest.mark.parametrize("tied", [True, False])
def test_fewer_bits_come_back_as_they_were(tmp_path, tied, kind, dtype):
    model = make(tie_embeddings=tied, bias=True)
    if kind:
        model = quantize(model, **kind)
    model.to(dtype)
    loaded, _ = load(save(tmp_path / "m", model, TOKENIZER))
    assert (loaded.quantization, loaded.dtype) == (model.quantization, dtype)
    saved, found = model.state_dict(), loaded.state_dict()
    assert saved.keys() == found.keys()
    assert all(torch.equal(saved[name], found[name]) for name in saved)
    assert all(saved[name].dtype == found[name].dtype for name in saved)
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    required = {name for name, parameter in loaded.named_parameters() if parameter.requires_grad}
    assert bool(required) == (not kind)


def test_a_quantized_folder_says_so_and_others_do_not(tmp_path, folder):
    quantized = save(tmp_path / "m", quantize(make(), bits=8), TOKENIZER)
    assert read_header(quantized)["quantization"] == {"bits": 8, "group_size": None}
    assert "quantization" not in read_header(folder)
    tensors = load_tensors(quantized / "model.safetensors")
    assert tensors["embedding.weight"].dtype == torch.int8
    assert tensors["embedding.scale"].shape == (262, 1)
    ids = quantize(make(), bits=4).embedding.weight
    assert (ids.dtype, ids.shape) == (torch.uint8, (262, 4))


@pytest.mark.parametrize(
    ("kind", "stated", "message"),
    [
        (
            {"bits": 8},
            None,
            "model.safetensors holds 8 bits a weight, but the model's settings "
            "say numbers in floating point; use another checkpoint",
        ),
        ({"bits": 8}, {"bits": 4}, "holds 8 bits a weight, but the model's settings say 4 bits a"),
        ({}, {"bits": 4}, "holds numbers in floating point, but the model's settings say 4 bits"),
        (
            {"bits": 8},
            {"bits": 8, "group_size": 4},
            "scale' is .*, but the settings make it .*; check group_size",
        ),
        ({"bits": 8}, {"bits": 8, "group_size": 5}, "config.json: group_size is 5, which does not"),
        ({"bits": 8}, {"bits": 3}, "config.json: bits is 3, but it should be 8 or 4"),
        ({"bits": 8}, [8], "config.json: Quantization is \\[8\\], but it should be a valid dict"),
    ],
)
def test_a_header_that_contradicts_the_weights_is_one_line(tmp_path, kind, stated, message):
    folder = save(tmp_path / "m", quantize(make(), **kind) if kind else make(), TOKENIZER)
    header = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**header, "quantization": stated}))
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)
