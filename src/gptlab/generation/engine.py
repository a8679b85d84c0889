"""Tokens from a model, with a cache: each row of a batch as if it were alone."""

from collections.abc import Iterator, Sequence

from gptlab.generation.batch import Batch, check_row
from gptlab.generation.rows import Row, Token
from gptlab.generation.steps import Steps
from gptlab.model import Network


def continue_rows(
    model: Network, rows: Sequence[Row], *, steps: Steps | None = None
) -> Iterator[tuple[Row, Token]]:
    """Draw tokens for all rows until each has ended, yielding them as they come.

    An end-of-sequence token ends its row and is not yielded; whoever reads may end a row as well.
    A row that fills the model's seq_len goes on as its `overflow` says. Rows with the same prompt
    share the reading of it, and those that have ended are read no further.

    Raises:
        ConfigError: A prompt has no token or unknown ones, or would overflow and may not.
        GenerationError: The model's numbers are not finite, or nothing is left to draw.
    """
    for row in rows:
        check_row(model, row)
    if not rows:
        return
    sources = max(len(row.source) for row in rows)
    longest = max(len(row.ids) + row.config.max_new_tokens for row in rows)
    capacity = min(model.config.seq_len, longest)
    batch = Batch(model, slots=len(rows), capacity=capacity, source_capacity=sources, steps=steps)
    try:
        batch.admit([row for row in rows if row.ending is None])
        while batch.rows:
            yield from batch.draw()
            for row in batch.rows:
                if row.error is not None:
                    raise row.error
            batch.advance()
    finally:
        batch.close()
