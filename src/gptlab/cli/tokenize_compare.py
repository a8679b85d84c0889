"""gptlab-tokenize --compare: tokenizers side by side on the same text."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tqdm import tqdm

from gptlab.corpus import open_corpus
from gptlab.errors import ConfigError
from gptlab.tokenizer import load_tokenizer
from gptlab.tokenizer.inspection import compare, measure_all

if TYPE_CHECKING:
    from gptlab.cli.tokenize import TokenizeCommand


def compare_tokenizers(command: "TokenizeCommand") -> None:
    """Print the table of all tokenizers, or their measurements as JSON.

    Raises:
        ConfigError: There is no tokenizer, or no text behind it.
        TokenizerError: A tokenizer can't be loaded, or can't take the text.
        DataError: The text can't be read.
    """
    *sources, text = command.compare
    if not sources:
        raise ConfigError(
            f"--compare has {text} alone; give tokenizers and, last, a text, as in "
            "--compare my_tok tiktoken:gpt2 text.txt"
        )
    corpus = open_corpus(text, field=command.field, errors=command.errors)
    named = {source: load_tokenizer(source, kind=command.tokenizer_type) for source in sources}
    documents = _with_progress(corpus.documents())
    if command.json_output:
        measured = measure_all(named, documents)
        print(json.dumps({name: values.as_dict() for name, values in measured.items()}, indent=2))
    else:
        print(compare(named, documents))


def _with_progress(documents: Iterable[str]) -> Iterator[str]:
    disable = not sys.stderr.isatty()
    with tqdm(desc="encoding", unit="B", unit_scale=True, disable=disable) as bar:
        for document in documents:
            yield document
            bar.update(len(document.encode()))
