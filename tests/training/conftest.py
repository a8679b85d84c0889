from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from head_tasks import rows_of, write
from pair_tasks import pair_lines

from gptlab.config import TrainConfig
from gptlab.config.preparation import WindowConfig
from gptlab.data import DatasetWriter
from gptlab.tokenizer import BPETokenizer
from gptlab.training import loop

LINES = "".join(f"the cat sat on mat {n % 7} and saw {n % 5} mice\n" for n in range(60))


@pytest.fixture
def without_plots(monkeypatch) -> None:
    """Runs draw nothing, which is most of a tiny run's time."""
    monkeypatch.setattr(loop, "plot_run", lambda _folder: None)


@pytest.fixture
def text_file(tmp_path, monkeypatch) -> Path:
    """A small text, in a folder of its own that is the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats.txt").write_text(LINES)
    return tmp_path / "cats.txt"


@pytest.fixture
def tiny(text_file) -> Callable[..., TrainConfig]:
    """Settings of a tiny run on the small text, with changes."""

    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{
                "train_data": str(text_file),
                "experiment_name": "tiny",
                "vocab_size": 270,
                "seq_len": 16,
                "embed_dim": 16,
                "num_layers": 1,
                "n_heads": 2,
                "batch_size": 4,
                "max_steps": 12,
                "eval_steps": 5,
                "log_every": 3,
                "sample_length": 5,
                "device": "cpu",
                "precision": "fp32",
                "quiet": True,
                **changes,
            }
        )

    return make


@pytest.fixture
def prepare(text_file) -> Callable[..., Path]:
    """Writes a prepared dataset of texts, a document each, with a held-out part if asked for."""

    def make(
        folder: str,
        texts: Sequence[str],
        *,
        dev: Sequence[str] = (),
        tokenizer: BPETokenizer | None = None,
        saved: bool = True,
        **windows: object,
    ) -> Path:
        tokenizer = tokenizer or BPETokenizer([])
        parts = [(Path(folder), texts)] + ([(Path(folder, "dev"), dev)] if dev else [])
        for path, part in parts:
            writer = DatasetWriter(path, vocab_size=tokenizer.vocab_size)
            for text in part:
                writer.write([*tokenizer.encode(text), tokenizer.eos_id])
                writer.end_document()
            writer.finish(
                tokenizer=tokenizer.fingerprint(),
                bytes=sum(len(text.encode()) for text in part),
                characters=sum(map(len, part)),
                windows=WindowConfig(**windows).model_dump(),
                pad_id=tokenizer.pad_id,
            )
        if saved:
            tokenizer.save(Path(folder, "tokenizer"))
        return Path(folder)

    return make


@pytest.fixture
def head_run(tmp_path, monkeypatch):
    """Settings of a tiny run of a head, with changes."""
    monkeypatch.chdir(tmp_path)

    def make(head: str = "sequence_classification", **changes: object) -> TrainConfig:
        return TrainConfig(
            **{
                "head": head,
                "train_data": write(tmp_path / f"{head}.jsonl", rows_of(head)),
                "dev_size": 0.3,
                "experiment_name": "tiny",
                "vocab_size": 270,
                "seq_len": 24,
                "embed_dim": 16,
                "num_layers": 1,
                "n_heads": 2,
                "batch_size": 5,
                "max_steps": 12,
                "eval_steps": 5,
                "log_every": 3,
                "learning_rate": 1e-2,
                "device": "cpu",
                "precision": "fp32",
                "quiet": True,
                **changes,
            }
        )

    return make


@pytest.fixture
def pair_run(tmp_path, monkeypatch):
    """Settings of a tiny run of a Transformer on a file of pairs, with changes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.tsv").write_text(pair_lines(40))

    def make(**changes: object) -> TrainConfig:
        return TrainConfig(
            **{
                "architecture": "transformer",
                "train_data": "pairs.tsv",
                "dev_size": 0.2,
                "experiment_name": "tiny",
                "vocab_size": 270,
                "seq_len": 16,
                "embed_dim": 16,
                "num_layers": 1,
                "n_heads": 2,
                "batch_tokens": 60,
                "max_steps": 12,
                "eval_steps": 5,
                "log_every": 3,
                "sample_length": 5,
                "learning_rate": 1e-2,
                "device": "cpu",
                "precision": "fp32",
                "compile": "off",
                "quiet": True,
                **changes,
            }
        )

    return make
