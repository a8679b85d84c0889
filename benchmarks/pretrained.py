"""A GPT-2 of random weights in a folder, as Hugging Face's libraries write one."""

from collections.abc import Mapping
from pathlib import Path

import torch
from corpora import first_bytes, python_documents
from peers import gpt2_config, hush_transformers

from gptlab import BPETokenizer, train_bpe

GPT2: Mapping[str, int] = {
    "vocab_size": 50257,
    "seq_len": 1024,
    "embed_dim": 768,
    "num_layers": 12,
    "n_heads": 12,
}
TINY: Mapping[str, int] = {
    "vocab_size": 512,
    "seq_len": 64,
    "embed_dim": 32,
    "num_layers": 3,
    "n_heads": 2,
}
_BYTES_A_TOKEN = 400
_LEAST_BYTES = 100_000


def source_text(vocab_size: int) -> str:
    """Installed Python source, enough of it to train a tokenizer of `vocab_size` ids on."""
    size = max(_LEAST_BYTES, _BYTES_A_TOKEN * vocab_size)
    return "".join(data.decode() for _, data in first_bytes(python_documents(), size))


def make_tokenizer(text: str, vocab_size: int) -> BPETokenizer:
    """A byte-level BPE of GPT-2's kind."""
    return train_bpe(
        texts=[text], vocab_size=vocab_size, pattern="gpt2", special_tokens=["<|endoftext|>"]
    )


def write_gpt2(
    folder: Path,
    shape: Mapping[str, int],
    tokenizer: BPETokenizer,
    *,
    dtype: torch.dtype = torch.float32,
) -> int:
    """Write a model of `shape` without dropout, and its tokenizer; bytes of its weights' file."""
    from transformers import GPT2LMHeadModel

    hush_transformers()
    torch.manual_seed(0)
    config = gpt2_config(
        shape,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_id,
        eos_token_id=tokenizer.eos_id,
    )
    GPT2LMHeadModel(config).to(dtype).save_pretrained(folder)
    tokenizer.save(folder)
    return (folder / "model.safetensors").stat().st_size
