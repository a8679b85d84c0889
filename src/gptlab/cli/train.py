"""gptlab-train: text in, a trained model out."""

from typing import Self

from pydantic import model_validator

from gptlab.cli.flags import CommandLine
from gptlab.cli.main import INTERRUPTED, run
from gptlab.config import TrainConfig
from gptlab.errors import ConfigError

# Exit codes of what runs without an error, but not as hoped for.
NOTHING_FOUND = 1
OUT_OF_BAND = 1


class TrainCommand(TrainConfig, CommandLine):
    """Train a GPT on a text file, a folder of text files, or a prepared dataset.

    Without arguments it trains on the shipped stories. With --architecture transformer it trains an
    encoder and a decoder on pairs of texts, and with encoder one that fills in masked tokens.
    """

    preset: str | None = None
    """Named starting point: tiny, toy, nanogpt-char, gpt2, gpt2-medium, gpt2-large, gpt2-xl,
    transformer-base; or finetune, for a run with init_from."""
    lr_find: bool = False
    """Instead of training, try learning rates of all sizes on this run, and suggest one."""
    check: bool = False
    """Instead, train the shipped reference run and say whether its loss falls as it should."""

    @model_validator(mode="after")
    def _one_at_a_time(self) -> Self:
        if self.lr_find and self.check:
            raise ConfigError("--lr_find and --check exclude each other; write one of them")
        # The settings of a run, which may be given again, have both, one of them as it is usual.
        usual = type(self).model_fields["batch_size"].default
        if self.batch_tokens is not None and self.batch_size != usual:
            raise ConfigError(
                "--batch_size and --batch_tokens say how large a batch is in two ways; leave one "
                "of them out"
            )
        return self


def main() -> None:
    """Entry point of the command."""
    run(_train, TrainCommand, prog="gptlab-train")


def _train(command: TrainCommand) -> int:
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.training import train

    given = command.model_fields_set & TrainConfig.model_fields.keys()
    config = TrainConfig(**{name: getattr(command, name) for name in given})
    if command.lr_find:
        return _find_learning_rate(config)
    if command.check:
        return _check(config)
    return INTERRUPTED if train(config).interrupted else 0


def _find_learning_rate(config: TrainConfig) -> int:
    """Search, which says what it finds."""
    from gptlab.training.lr_find import find_learning_rate

    return NOTHING_FOUND if find_learning_rate(config).suggestion is None else 0


def _check(config: TrainConfig) -> int:
    """Print how this machine's curve lies to the reference."""
    from gptlab.training.reference import check_reference, read_reference, verdict

    check = check_reference(config)
    if check is None:
        return 0
    if not config.quiet:
        print(verdict(check, seeds=read_reference().seeds))
    return 0 if check.in_band else OUT_OF_BAND


if __name__ == "__main__":
    main()
