"""What a run reports: `metrics.jsonl`, a line a record, and what else it is sent to."""

import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gptlab.training.files import replace_text
from gptlab.training.sinks import Sink

FILE = "metrics.jsonl"

MEASURED = frozenset({"elapsed_seconds", "memory_bytes", "mfu", "tokens_per_second"})
"""Fields of a record that differ from run to run; all others follow from settings and data."""


class MetricsLog:
    """Appends records to `metrics.jsonl` in a run's folder, and passes them on.

    Args:
        folder: The run.
        kept: How many of the records that are there belong to the run; those of steps that were
            lost when it was killed are dropped.
        sinks: Told each record too, and closed with the log.
    """

    def __init__(self, folder: Path, *, kept: int, sinks: Sequence[Sink] = ()) -> None:
        path = folder / FILE
        replace_text(path, "".join(map(_line, read_metrics(folder)[:kept])))
        self._sinks = tuple(sinks)
        self._stream = path.open("a", encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        """Append `record`, which has at least `step` and `split`."""
        self._stream.write(_line(record))
        self._stream.flush()
        for sink in self._sinks:
            sink.write(record)

    def close(self) -> None:
        """Flush and release the files, and close the sinks, each even if another fails."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)
            stack.callback(self._stream.close)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The records of a run, in order; a last line that a kill cut short is left out."""
    path = folder / FILE
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _line(record: dict[str, Any]) -> str:
    # JSON has no NaN nor infinity.
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(finite) + "\n"
