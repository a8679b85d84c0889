"""Chunks, texts and whole corpora to ids."""
