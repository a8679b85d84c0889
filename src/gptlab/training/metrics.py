"""What a run reports: `metrics.jsonl`, a line a record, and TensorBoard if enabled."""

import json
import math
from pathlib import Path
from typing import Any

from gptlab.errors import ConfigError
from gptlab.training.files import replace_text

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends records to `metrics.jsonl` in a run's folder.

    Args:
        folder: The run.
        after_step: Records of later steps, from before a run was killed, are dropped.
        tensorboard: Write TensorBoard events too.

    Raises:
        ConfigError: TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, *, after_step: int, tensorboard: bool) -> None:
        kept = [record for record in read_metrics(folder) if record["step"] <= after_step]
        path = folder / FILE
        replace_text(path, "".join(_line(record) for record in kept))
        self._stream = path.open("a", encoding="utf-8")
        self._board = None
        if tensorboard:
            self._board = summary_writer()(str(folder), purge_step=after_step + 1)

    def write(self, record: dict[str, Any]) -> None:
        """Append `record`, which has at least `step` and `split`."""
        self._stream.write(_line(record))
        self._stream.flush()
        if self._board is not None:
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self._board.add_scalar(f"{record['split']}/{name}", value, record["step"])

    def close(self) -> None:
        """Flush and release the files."""
        self._stream.close()
        if self._board is not None:
            self._board.close()


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


def summary_writer() -> Any:
    """TensorBoard's class of writers.

    Raises:
        ConfigError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "--tensorboard needs the tensorboard package; pip install tensorboard"
        ) from None
    return SummaryWriter
