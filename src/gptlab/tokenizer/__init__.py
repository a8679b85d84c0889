"""Text to ids and back: a byte-level BPE of our own, tiktoken and SentencePiece behind one face."""

from gptlab.tokenizer.adapters import SentencePieceTokenizer, TiktokenTokenizer
from gptlab.tokenizer.base import SPECIAL_TOKENS, Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.encoding.documents import EncodedPiece, encode_documents
from gptlab.tokenizer.load import load_tokenizer
from gptlab.tokenizer.trainer import train_bpe

__all__ = [
    "SPECIAL_TOKENS",
    "BPETokenizer",
    "EncodedPiece",
    "SentencePieceTokenizer",
    "TiktokenTokenizer",
    "Tokenizer",
    "encode_documents",
    "load_tokenizer",
    "train_bpe",
]
