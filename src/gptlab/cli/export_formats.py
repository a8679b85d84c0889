"""gptlab-export --format hf, gguf, onnx, pth or adapter: what is no checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from gptlab.checkpoint import find_checkpoint, named_model, save_adapter
from gptlab.checkpoint.files import ADAPTER
from gptlab.cli.eval_output import Row
from gptlab.cli.export_smaller import size_in_words
from gptlab.errors import ConfigError
from gptlab.interop import find_model, load_gpt
from gptlab.interop.export import Exported, export, require_free
from gptlab.interop.writers import Format
from gptlab.tokenizer.chat import template_in

if TYPE_CHECKING:
    from gptlab.cli.export import ExportCommand

_BITS = {"int8": 8, "int4": 4, None: None}


def export_format(command: "ExportCommand", output: Path, *, format: Format) -> list[Row]:
    """Write the folder; what it is, and how near it is to the model."""
    source = find_model(named_model(command.model[0], command.runs_dir))
    if output.resolve() == source.resolve():
        raise ConfigError(f"--output {output} is the model itself; choose another folder")
    require_free(output)
    exported = export(
        *load_gpt(source),
        output,
        format=format,
        precision=command.precision,
        bits=_BITS[command.quantize],
        chat_template=template_in(source),
    )
    return [("model", str(source)), *_rows(exported)]


def export_adapter(command: "ExportCommand", output: Path) -> list[Row]:
    """Write the adapters of a run alone; where they are, and how large."""
    source = find_checkpoint(named_model(command.model[0], command.runs_dir))
    save_adapter(output, source)
    size = size_in_words((output / ADAPTER).stat().st_size)
    return [
        ("model", str(source)),
        ("written to", str(output)),
        ("weights", f"{ADAPTER}, {size}"),
        ("now", f"gptlab-generate --model_path BASE --adapter {output}"),
    ]


def _rows(exported: Exported) -> list[Row]:
    name = f", architecture {exported.architecture}" if exported.architecture else ""
    size = size_in_words(exported.weights.stat().st_size)
    return [
        ("written to", str(exported.folder)),
        ("weights", f"{exported.weights.name}, {size}{name}"),
        *(
            (
                "largest difference",
                f"{parity.largest_difference:.2g} of logits up to {parity.largest_logit:.3g}, "
                f"read by {parity.reader}; allowed are {parity.bound:.2g}",
            )
            for parity in exported.parities
        ),
        *(("note", note) for note in exported.notes),
    ]
