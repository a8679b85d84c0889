"""gptlab-export: a trained model as a smaller one, or in the formats of others."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import PositiveInt, model_validator

from gptlab.cli.eval_output import table
from gptlab.cli.flags import CommandLine
from gptlab.cli.main import run
from gptlab.config.settings import Source
from gptlab.errors import ConfigError

_OF_GPTLAB = ("group_size", "data")


class ExportCommand(CommandLine):
    """Write a trained model in fewer bits, or for transformers, llama.cpp, ONNX Runtime, PyTorch.

    MODEL is a run, its newest checkpoint then, a checkpoint's folder, or another model that gptlab
    reads. In the format gptlab it becomes a checkpoint too, which gptlab-generate and gptlab-eval
    take, and told is what is lost. In other formats it is read back before it gets its name, and
    told is how far the logits are from the model's own.
    """

    positional: ClassVar[str | None] = "model"

    model: tuple[Source, ...] = ()
    """The run, by name or by folder, or a checkpoint; RUN/best is a run's best."""
    output: Source | None = None
    """Folder to write; a model that was exported there is replaced."""
    format: Literal["gptlab", "hf", "gguf", "onnx", "pth", "adapter"] = "gptlab"
    """For gptlab itself, transformers (hf), llama.cpp (gguf), ONNX Runtime, or a state dict; or
    the adapters of LoRA alone, which all others have merged into the weights."""
    quantize: Literal["int8", "int4"] | None = None
    """Bits of a weight in the matrices: 8 or 4; gguf has 8 alone, and the others neither."""
    group_size: PositiveInt | None = None
    """gptlab: weights that share a scale; a row with int8 and about 32 with int4 if not given."""
    precision: Literal["bf16", "fp16", "fp32"] | None = None
    """Type of all numbers that are not quantized; as they are if not given."""
    data: tuple[Source, ...] = ()
    """gptlab: texts, folders of texts, prepared datasets to measure the loss on; the run's
    evaluation text if not given."""
    field: Source = "text"
    """The key or the column that holds the text, where a file has rows."""
    batch_size: PositiveInt = 10
    """Windows to read at once."""
    device: str = "auto"
    """Where the loss is measured: cpu, cuda, ...; 'auto' takes a GPU where there is one."""
    runs_dir: str = "runs"
    """Where to look for a run that is given by name, and to keep encoded texts."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.group_size is not None and self.quantize is None:
            raise ConfigError(
                "--group_size is for quantized weights; write --quantize int8 or int4 with it"
            )
        for name in _OF_GPTLAB:
            if self.format != "gptlab" and getattr(self, name):
                raise ConfigError(f"--{name} is for --format gptlab; leave it out")
        for name in ("quantize", "precision"):
            if self.format == "adapter" and getattr(self, name):
                raise ConfigError(f"adapters stay as they were trained; leave --{name} out")
        return self


def main() -> None:
    """Entry point of the command."""
    run(_export, ExportCommand, prog="gptlab-export")


def _export(command: ExportCommand) -> None:
    if len(command.model) != 1:
        raise ConfigError(
            f"it takes one model to export, not {len(command.model)}; name a run or a checkpoint, "
            "as in gptlab-export runs/NAME"
        )
    if command.output is None:
        raise ConfigError("there is no folder to write; name one with --output")
    output = Path(command.output)
    # Here, so that --help and a bad flag are answered without torch.
    if command.format == "gptlab":
        from gptlab.cli.export_smaller import export_smaller

        rows = export_smaller(command, output)
    elif command.format == "adapter":
        from gptlab.cli.export_formats import export_adapter

        rows = export_adapter(command, output)
    else:
        from gptlab.cli.export_formats import export_format

        rows = export_format(command, output, format=command.format)
    print(table(rows))


if __name__ == "__main__":
    main()
