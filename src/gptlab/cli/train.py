"""gptlab-train: text in, a trained GPT out."""

from gptlab.cli.flags import CommandLine
from gptlab.cli.main import INTERRUPTED, run
from gptlab.config import TrainConfig


class TrainCommand(TrainConfig, CommandLine):
    """Train a GPT on a text file, a folder of text files, or a prepared dataset.

    Without arguments it trains on the shipped stories.
    """

    preset: str | None = None
    """Named starting point: tiny, toy, nanogpt-char, gpt2, gpt2-medium, gpt2-large, gpt2-xl."""


def main() -> None:
    """Entry point of the command."""
    run(_train, TrainCommand, prog="gptlab-train")


def _train(command: TrainCommand) -> int:
    # Here, so that --help and a bad flag are answered without torch.
    from gptlab.training import train

    given = command.model_fields_set & TrainConfig.model_fields.keys()
    result = train(TrainConfig(**{name: getattr(command, name) for name in given}))
    return INTERRUPTED if result.interrupted else 0


if __name__ == "__main__":
    main()
