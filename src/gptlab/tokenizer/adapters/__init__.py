"""Vocabularies of others behind the `Tokenizer` protocol."""

from gptlab.tokenizer.adapters.sentencepiece import SENTENCEPIECE_FILE, SentencePieceTokenizer
from gptlab.tokenizer.adapters.sentencepiece_trainer import train_sentencepiece
from gptlab.tokenizer.adapters.tiktoken import TIKTOKEN_FILE, TiktokenTokenizer

__all__ = [
    "SENTENCEPIECE_FILE",
    "TIKTOKEN_FILE",
    "SentencePieceTokenizer",
    "TiktokenTokenizer",
    "train_sentencepiece",
]
