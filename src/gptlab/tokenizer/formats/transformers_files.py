"""Any tokenizer as files from which transformers' AutoTokenizer makes the same ids."""

from pathlib import Path

from gptlab.errors import TokenizerError
from gptlab.tokenizer.adapters import SentencePieceTokenizer, TiktokenTokenizer
from gptlab.tokenizer.base import Tokenizer
from gptlab.tokenizer.bpe import BPETokenizer
from gptlab.tokenizer.files import to_json, write_files
from gptlab.tokenizer.formats.huggingface import TOKENIZER_FILE
from gptlab.tokenizer.formats.sentencepiece_file import read_model
from gptlab.tokenizer.formats.sentencepiece_json import document_of


def save_for_transformers(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and what else tools may look for.

    AutoTokenizer then gives the ids of `encode(text, allowed_special="all")` and puts nothing
    around them, and `load_tokenizer` opens the folder as well; tiktoken's encodings become a
    byte-level BPE. Of a SentencePiece model of the unigram kind, ids may differ where two ways to
    cut a text are equally likely; see `sentencepiece_json.document_of`.

    Args:
        tokenizer: One of gptlab's classes.
        folder: Where to; it is made if it is missing.

    Raises:
        TokenizerError: transformers can't do what the tokenizer does, or the folder can't be
            written.
    """
    if isinstance(tokenizer, TiktokenTokenizer):
        tokenizer = tokenizer.as_bpe()
    if isinstance(tokenizer, SentencePieceTokenizer):
        tokenizer.save(folder)
        write_files(folder, {TOKENIZER_FILE: _document(tokenizer)})
    elif isinstance(tokenizer, BPETokenizer):
        tokenizer.save(folder)
    else:
        raise TokenizerError(
            f"a {type(tokenizer).__name__} can't be saved for transformers; only gptlab's own "
            f"kinds of tokenizers can"
        )


def _document(tokenizer: SentencePieceTokenizer) -> bytes:
    try:
        model = read_model(tokenizer.model_bytes)
        document = document_of(
            model,
            tokenizer.added_tokens,
            keeps_mark=tokenizer.keeps_mark,
            metaspace=tokenizer.metaspace,
        )
    except ValueError as error:
        raise TokenizerError(
            f"transformers can't give the ids of this SentencePiece model: {error}; export a model "
            f"with another tokenizer, or to a format without one"
        ) from error
    return to_json(document)
