"""Names on Hugging Face's hub, with its client replaced: no test asks the hub."""

import sys

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

import gptlab
from gptlab.errors import CheckpointError
from gptlab.interop import hub
from interop.peers import save_peer


def answer(monkeypatch, reply) -> list[dict]:
    """Let the hub answer by `reply`, and note what it is asked."""
    asked: list[dict] = []

    def snapshot_download(name: str, **how):
        asked.append({"name": name, **how})
        if isinstance(reply, Exception):
            raise reply
        return str(reply)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def error_of(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    error.args = ("no",)
    return error


def test_a_name_is_downloaded_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_peer("gpt2", tmp_path / "snapshot")
    asked = answer(monkeypatch, tmp_path / "snapshot")
    tokenizer = gptlab.BPETokenizer([], special_tokens=[])
    with pytest.raises(gptlab.GptlabError, match="has 256 tokens, but the model knows 131"):
        gptlab.load("distilgpt2", tokenizer=tokenizer)
    assert [entry["name"] for entry in asked] == ["distilgpt2"]
    patterns = asked[0]["allow_patterns"]
    assert "model*.safetensors" in patterns
    assert not any("bin" in pattern for pattern in patterns)


def test_pickles_are_taken_only_where_there_is_nothing_else(tmp_path, monkeypatch):
    asked = answer(monkeypatch, tmp_path)
    assert hub.download("org/name") == tmp_path
    assert [entry["allow_patterns"][-1] for entry in asked] == [
        "model*.safetensors",
        "pytorch_model*.bin",
    ]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RepositoryNotFoundError, "; Hugging Face's hub has no 'org/x'"),
        (GatedRepoError, "; Hugging Face's hub gives 'org/x' to those who agreed to its terms"),
        (LocalEntryNotFoundError, "; Hugging Face's hub can't be reached for 'org/x'; go online"),
        (RuntimeError, "; Hugging Face's hub does not give 'org/x': no"),
    ],
)
def test_what_the_hub_does_not_give(tmp_path, monkeypatch, error, words):
    monkeypatch.chdir(tmp_path)
    answer(monkeypatch, error_of(error))
    with pytest.raises(CheckpointError) as caught:
        gptlab.load("org/x")
    assert str(caught.value).startswith("org/x does not exist; give a run, a checkpoint")
    assert words in str(caught.value)


def test_without_the_client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'pip install "gptlab\[hf\]"'):
        gptlab.load("distilgpt2")


@pytest.mark.parametrize("name", ["distilgpt2", "org/name", "Qwen/Qwen2.5-0.5B", "EleutherAI/p_1"])
def test_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert hub.is_name(name)


@pytest.mark.parametrize(
    "path", ["a/b/c", "./a", "/a", "../a", "a..b", "runs/best", "here", "m.pt", "m.safetensors", ""]
)
def test_paths(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "here").mkdir()
    assert not hub.is_name(path)
