"""What stands on a model in the place of next-token logits, and what it learns from."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, PositiveInt, model_validator

from gptlab.config.settings import Settings, Source, several
from gptlab.errors import ConfigError

HeadName = Literal[
    "language_model",
    "sequence_classification",
    "regression",
    "token_classification",
    "embedding",
    "own",
]
LANGUAGE_MODEL: Literal["language_model"] = "language_model"
OWN: Literal["own"] = "own"
IGNORED = -1
"""The target of a token that has no label."""

TargetKind = Literal["class", "numbers", "word_classes", "similarity"]
"""What a row's label is: one of the labels; a number or several; one of the labels for each word;
or how similar its two texts are."""


def _different(labels: tuple[str, ...]) -> tuple[str, ...]:
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ConfigError(f"labels has '{twice}' twice; write each once")
    return labels


class HeadSettings(Settings):
    """What a head is: all that travels with the model beside its weights."""

    head: HeadName = LANGUAGE_MODEL
    """What the model is to say of a text; 'own' is a class given in Python."""
    labels: Annotated[tuple[Source, ...], BeforeValidator(several), AfterValidator(_different)] = ()
    """Names of the classes, in the order of the logits; those in the data, sorted, if not given."""
    pooling: Literal["last", "mean"] = "last"
    """What stands for a text: the state at its last token, or the mean over all."""
    normalise: bool = False
    """Give an embedding length 1."""
    num_values: PositiveInt | None = None
    """Numbers that regression gives for a text; as many as the first row has if not given."""


class HeadConfig(HeadSettings):
    """A head, and where its labels are found."""

    label_field: Source = "label"
    """The key or the column that holds the label; labels for token_classification if not given."""
    pair_field: Source = "text_2"
    """That of the text which the first is compared with, for embeddings."""

    @model_validator(mode="after")
    def _has_a_head(self) -> Self:
        if self.head == LANGUAGE_MODEL:
            for name in OF_HEADS:
                if getattr(self, name) != HeadConfig.model_fields[name].default:
                    raise ConfigError(
                        f"{name} does nothing without another head; write --head, as in --head "
                        "sequence_classification"
                    )
        return self


# Settings of what is none for next tokens.
OF_HEADS = ("labels", "pooling", "normalise", "num_values", "label_field", "pair_field")
# Settings that are about next tokens or windows of them: with a head they would do nothing.
OF_NEXT_TOKENS = (
    "bpe_dropout",
    "chat_template",
    "document_mask",
    "key_tokens",
    "label_smoothing",
    "loss_chunk",
    "reset_positions",
    "z_loss",
)
# Fields of rows that are words, where nobody names others.
FIELDS_OF_WORDS: Mapping[str, str] = MappingProxyType({"field": "tokens", "label_field": "labels"})
