"""What a run's folder tells."""

import json
from pathlib import Path

from gptlab.config import TrainConfig
from gptlab.errors import ConfigError

SETTINGS = "config.json"


def saved_settings(run: Path) -> TrainConfig | None:
    """The settings of the run in the folder `run`; None where there are none that can be read."""
    try:
        return TrainConfig(**json.loads((run / SETTINGS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, ConfigError):
        return None
