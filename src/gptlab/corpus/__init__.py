"""Files to documents: plain and compressed text, JSON lines and Parquet."""

from gptlab.corpus.corpus import Corpus, open_corpus
from gptlab.corpus.formats import TextErrors

__all__ = ["Corpus", "TextErrors", "open_corpus"]
