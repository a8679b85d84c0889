"""The settings that a run saved, and what of them may change when it goes on."""

import json
from pathlib import Path
from typing import Any

from gptlab.config import TrainConfig
from gptlab.config.presets import superseded_by
from gptlab.config.training import AUTO
from gptlab.errors import ConfigError
from gptlab.training.chat import named_template

CONFIG = "config.json"

# What may change between a run and its continuation: how long, where and in which parts it is
# computed, what is kept and shown of it; not what is learned.
MAY_CHANGE = frozenset(
    {
        "activation_checkpointing",
        "attention",
        "compile",
        "deterministic",
        "device",
        "epochs",
        "eval_steps",
        "eval_strategy",
        "eval_translations",
        "experiment_name",
        "gradient_accumulation_steps",
        "keep_last",
        "log_every",
        "log_strategy",
        "loss_chunk",
        "max_bad_steps",
        "max_minutes",
        "max_steps",
        "micro_batch_size",
        "overwrite",
        "parallel",
        "patience",
        "quiet",
        "resume",
        "runs_dir",
        "sample_length",
        "save_every",
        "save_every_epochs",
        "save_strategy",
        "tensorboard",
        "wandb",
    }
)


def saved_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that the run in `folder` saved; None where there are none."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(values, dict) and {"train_data", "runs_dir"} <= values.keys()
    return values if is_ours else None


def saved_config(folder: Path) -> TrainConfig | None:
    """The settings of the run in `folder`, validated; None where there are none, or bad ones."""
    values = saved_settings(folder)
    try:
        return None if values is None else TrainConfig(**values)
    except ConfigError:
        return None


def to_text(config: TrainConfig) -> str:
    """What `config.json` of a run holds."""
    return json.dumps(lasting(config), indent=1) + "\n"


def lasting(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON holds them, all but how the run was started."""
    return config.model_dump(mode="json", exclude={"resume", "overwrite", "quiet"})


def merged(config: TrainConfig, folder: Path) -> TrainConfig:
    """The settings of the run in `folder`, with what `config` was given on top.

    Raises:
        ConfigError: They differ in what decides the result, or the saved ones are damaged.
    """
    settings = saved_settings(folder)
    if settings is None:
        raise ConfigError(f"{folder / CONFIG} is damaged; start afresh with --overwrite")
    saved = TrainConfig(**settings)
    given = {name: getattr(config, name) for name in config.model_fields_set}
    differing = [
        f"{name} ({_shown(getattr(saved, name))}, not {_shown(value)})"
        for name, value in given.items()
        if not _agrees(name, value, saved)
    ]
    if differing:
        raise ConfigError(
            f"{folder} can't be resumed with other settings: {', '.join(sorted(differing))}; "
            "leave them out, or write another --experiment_name"
        )
    if given.get("micro_batch_size") == AUTO and isinstance(saved.micro_batch_size, int):
        # What was found to fit stays, so that the same command computes the same.
        del given["micro_batch_size"]
    changed = {name: value for name, value in given.items() if name in MAY_CHANGE}
    return saved.replace(**_superseded(given), **changed)


def _superseded(given: dict[str, Any]) -> dict[str, Any]:
    """Saved settings that exclude what was given say no longer anything."""
    values: dict[str, Any] = dict.fromkeys(superseded_by(given) & MAY_CHANGE)
    if "save_every" in values and "save_strategy" not in given:
        values["save_strategy"] = "auto"
    if given.get("save_every") and "save_strategy" not in given:
        values["save_strategy"] = "steps"
    if given.get("save_strategy") in ("epoch", "no") and "save_every" not in given:
        values["save_every"] = None
    return values


def _agrees(name: str, value: object, saved: TrainConfig) -> bool:
    """Whether what was given is compatible with the saved settings, which are resolved ones."""
    if name == "precision" and value == AUTO:
        return True
    if name == "vocab_size" and isinstance(value, int):
        if saved.init_from is not None or (saved.learns_masks and saved.tokenizer != AUTO):
            # Given is what the model, or the tokenizer, had before it grew by new tokens.
            return saved.vocab_size - _num_new_tokens(saved) <= value <= saved.vocab_size
        if saved.tokenizer == AUTO:
            # A text may have no more to merge than this; prepared data may have had no mask.
            return value >= saved.vocab_size - int(saved.learns_masks)
    if name == "src_vocab_size" and isinstance(value, int) and saved.src_tokenizer is None:
        # A text may have no more to merge than this; without one, sources have the targets' ids.
        return saved.src_vocab_size is not None and value >= saved.src_vocab_size
    return name in MAY_CHANGE or value == getattr(saved, name)


def _num_new_tokens(saved: TrainConfig) -> int:
    """How many tokens a run may have added to its model."""
    template = named_template(saved)
    of_template = 0 if template is None else len(template.special_tokens)
    return len(saved.special_tokens) + of_template + int(saved.learns_masks)


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
