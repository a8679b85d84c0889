"""Files to documents: plain and compressed text, JSON lines, Parquet and Arrow."""

from gptlab.corpus.corpus import Corpus
from gptlab.corpus.documents import Document, Unreadable
from gptlab.corpus.formats import TextErrors
from gptlab.corpus.opening import open_corpus

__all__ = ["Corpus", "Document", "TextErrors", "Unreadable", "open_corpus"]
