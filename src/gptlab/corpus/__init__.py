"""Files to documents: plain and compressed text, JSON lines, Parquet and Arrow."""

from gptlab.corpus.corpus import Corpus, open_corpus
from gptlab.corpus.documents import Document, Unreadable
from gptlab.corpus.formats import TextErrors

__all__ = ["Corpus", "Document", "TextErrors", "Unreadable", "open_corpus"]
