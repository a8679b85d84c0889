"""Whether one recipe trains better models than another: both, over several seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptlab.config import TrainConfig
from gptlab.errors import ConfigError
from gptlab.evaluation.comparison import Comparison, paired_difference, require_scipy
from gptlab.training import train
from gptlab.training.inputs import Inputs, load_inputs
from gptlab.training.metrics import read_metrics
from gptlab.training.pair_inputs import load_pair_inputs
from gptlab.training.run_settings import saved_config

Say = Callable[[str], None]

_LOSS, _BITS = "loss", "bits_per_byte"
# A run may go on by others of these, but is then no longer what the settings make from the start.
_WHEN_IT_ENDS = (
    "epochs",
    "max_steps",
    "max_minutes",
    "patience",
    "eval_strategy",
    "eval_steps",
)
_UNITS = {_LOSS: "nats per token", _BITS: "bits per byte"}


def compare(
    a: TrainConfig, b: TrainConfig, *, seeds: int = 5, say: Say = lambda _line: None
) -> Comparison:
    """Train A and B with seeds 0, 1, ... each, and compare their evaluation losses in pairs.

    The runs are called after `experiment_name`, "a" and "b" if not given: a-seed0, a-seed1, ... One
    that is finished already is used as it is, and one that was cut off goes on. Both are held
    against the same text; where their tokenizers differ, by bits per byte.

    Args:
        a: Settings; their `seed` is replaced.
        b: Others.
        seeds: Number of runs of each.
        say: Told what each run came to.

    Raises:
        GptlabError: Something does not fit, the evaluation texts differ for example.
        KeyboardInterrupt: A run was interrupted; it was saved and can go on.
    """
    require_scipy()
    if seeds < 2:
        raise ConfigError(f"seeds is {seeds}, but an interval needs at least 2; 5 is usual")
    names = (a.experiment_name or "a", b.experiment_name or "b")
    if names[0] == names[1]:
        raise ConfigError(f"both are called '{names[0]}', as are their runs then; rename one")
    field = _common_measure(a, b, names)
    records: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in names}
    # By turns, so that what there is after an interruption is pairs.
    for seed in range(seeds):
        for name, config in zip(names, (a, b), strict=True):
            records[name].append(_evaluations(_with_seed(config, name, seed), field, say))
    values = {
        "at the end": {name: [run[-1][field] for run in records[name]] for name in names},
        "at its best": {
            name: [min(record[field] for record in run) for run in records[name]] for name in names
        },
    }
    return Comparison(
        a=names[0],
        b=names[1],
        paired_by="seed",
        unit=_UNITS[field],
        measures={
            label: paired_difference(of[names[0]], of[names[1]]) for label, of in values.items()
        },
        values=values,
    )


def _with_seed(config: TrainConfig, name: str, seed: int) -> TrainConfig:
    # What was not given stays so: it may follow from what the run reads.
    given = {field: getattr(config, field) for field in config.model_fields_set - {"overwrite"}}
    own = {"seed": seed, "experiment_name": f"{name}-seed{seed}", "resume": True}
    return TrainConfig(**{**given, **own})


def _evaluations(config: TrainConfig, field: str, say: Say) -> list[dict[str, Any]]:
    """The evaluation records of the run, which is trained to its end first."""
    _require_same_end(config)
    result = train(config)
    if result.interrupted:
        raise KeyboardInterrupt
    records = [record for record in read_metrics(result.path) if record["split"] == "eval"]
    if not records or any(record.get(field) is None for record in records):
        raise ConfigError(
            f"{result.path} has evaluations without {field}; compare runs with one tokenizer, and "
            "finite losses"
        )
    final, best = records[-1][field], min(record[field] for record in records)
    say(f"{result.path}: {final:.4f} {_UNITS[field]} after {result.steps:,} steps, best {best:.4f}")
    return records


def _require_same_end(config: TrainConfig) -> None:
    """Refuse a run that is there and was to end otherwise, as its learning rates differ too."""
    folder = Path(config.runs_dir, str(config.experiment_name))
    saved = saved_config(folder)
    if saved is None:
        return
    for name in _WHEN_IT_ENDS:
        former, now = getattr(saved, name), getattr(config, name)
        if former != now:
            raise ConfigError(
                f"{folder} was trained with {name} {former}, not {now}; delete it, or rename what "
                "is compared"
            )


def _common_measure(a: TrainConfig, b: TrainConfig, names: tuple[str, str]) -> str:
    """The field of metrics that means the same for both.

    Raises:
        ConfigError: They are evaluated on different texts, so that there is none.
    """
    inputs = [_inputs_of(config) for config in (a, b)]
    tokenizers = {part.tokenizer.fingerprint() for part in inputs}
    field = _LOSS if len(tokenizers) == 1 else _BITS
    if field == _BITS and any(part.pairs is not None for part in inputs):
        raise ConfigError(
            f"{names[0]} and {names[1]} have different tokenizers, whose losses on pairs say "
            "nothing of each other; give both the same --tokenizer"
        )
    first, second = (_evaluated(part, field) for part in inputs)
    if first != second:
        raise ConfigError(
            f"{names[0]} and {names[1]} are evaluated on different texts; give both the same "
            "--eval_data"
        )
    return field


def _inputs_of(config: TrainConfig) -> Inputs:
    read = load_pair_inputs if config.architecture == "transformer" else load_inputs
    return read(config, saved=None, say=lambda _line: None)


def _evaluated(inputs: Inputs, field: str) -> list[Any]:
    """What tells one evaluation text from another: its tokens, or the size of the text."""
    if inputs.pairs is not None:
        return [inputs.pairs.evaluation.fingerprint()]
    if field == _LOSS:
        return [
            [shard["sha256"] for shard in dataset.manifest["shards"]]
            for dataset in inputs.evaluation
        ]
    sizes = ("bytes", "characters")
    return [sum(dataset.manifest[size] for dataset in inputs.evaluation) for size in sizes]
