"""What models make of texts, as pictures and a page in a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptlab.errors import ConfigError
from gptlab.evaluation.attention_maps import AttentionMap, pair_maps, text_maps
from gptlab.evaluation.attention_pictures import draw_attention
from gptlab.evaluation.inspected import Inspected
from gptlab.evaluation.loss_page import loss_page
from gptlab.evaluation.pair_reading import pair_ids, read_pair
from gptlab.evaluation.reading import Reading
from gptlab.evaluation.text_reading import read_text
from gptlab.model import Encoder
from gptlab.tokenizer.mask import mask_name

PAGE = "loss.html"


@dataclass(frozen=True)
class Findings:
    """What one model made of one text."""

    reading: Reading | None
    """None of an encoder, which predicts no next tokens."""
    maps: Sequence[AttentionMap]


def inspect_text(inspected: Inspected, text: str, *, most: int) -> Findings:
    """Look at how a GPT or an encoder reads a text.

    Args:
        inspected: The model.
        text: Plain text.
        most: Tokens on each side of a map; 0 makes none.

    Raises:
        ConfigError: It is an encoder, of which only maps can be made, and none is wanted.
        DataError: The text is too short, or too long to be looked at token by token.
    """
    if isinstance(inspected.model, Encoder):
        if not most:
            raise ConfigError(
                "an encoder has no page of next tokens, and with max_tokens 0 no pictures "
                "either; write --max_tokens 64"
            )
        name = mask_name(inspected.tokenizer)
        allowed = () if name is None else (name,)
        ids = inspected.tokenizer.encode(text, allowed_special=allowed)
        return Findings(None, text_maps(inspected, ids, most=most))
    reading, ids = read_text(inspected, text), inspected.tokenizer.encode(text)
    return Findings(reading, text_maps(inspected, ids, most=most) if most else ())


def inspect_pair(
    inspected: Inspected, source: str, target: str | None = None, *, most: int
) -> Findings:
    """Look at how a Transformer makes a target of a source.

    Args:
        inspected: The model.
        source: What the encoder reads.
        target: What the decoder is to write; what it greedily writes if None.
        most: Tokens on each side of a map; 0 makes none.

    Raises:
        ConfigError: The source or the target is longer than the model's seq_len.
        TokenizerError: The tokenizer has no token that ends a sequence.
    """
    pair = pair_ids(inspected, source, target)
    reading = read_pair(inspected, pair, source=source)
    return Findings(reading, pair_maps(inspected, pair, most=most) if most else ())


def write_findings(folder: Path, models: Mapping[str, Sequence[Findings]]) -> list[str]:
    """Write a page of all models and texts into `folder`, and a picture for each map.

    Where there are several models or texts, the pictures of each are in a folder of their own.

    Args:
        folder: An empty one.
        models: By name, what each found in the same texts.

    Returns:
        The names of what was written.
    """
    files = []
    readings = {name: _readings(findings) for name, findings in models.items()}
    if all(readings.values()):
        files.append(PAGE)
        page = loss_page(readings, title=" beside ".join(models))
        (folder / PAGE).write_text(page, encoding="utf-8")
    for number, findings in enumerate(models.values(), start=1):
        for place, one in enumerate(findings, start=1):
            of_model = f"model-{number}/" if len(models) > 1 else ""
            of_text = f"source-{place}/" if len(findings) > 1 else ""
            for attention in one.maps:
                files.append(f"{of_model}{of_text}{attention.name}.png")
                (folder / files[-1]).parent.mkdir(parents=True, exist_ok=True)
                draw_attention(attention, folder / files[-1])
    return files


def _readings(findings: Sequence[Findings]) -> list[Reading]:
    return [one.reading for one in findings if one.reading is not None]
