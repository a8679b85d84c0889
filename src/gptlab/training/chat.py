"""Which form the conversations of a run have."""

from collections.abc import Iterable

from gptlab.config import TrainConfig
from gptlab.data import TokenDataset
from gptlab.errors import ConfigError
from gptlab.tokenizer.chat import ChatTemplate, find_template
from gptlab.training.sources import Data


def chat_template_of(config: TrainConfig, read: Iterable[Data]) -> ChatTemplate | None:
    """The template of a run's conversations; None where it is on plain texts.

    It is the one that the settings name, or that of the prepared datasets which are `read`.

    Raises:
        ConfigError: There is no such template, it is not that of a dataset, some datasets are of
            conversations and others of plain texts, or dropout is asked for.
    """
    template = None if config.chat_template is None else find_template(config.chat_template)
    prepared = [data for data in read if isinstance(data, TokenDataset)]
    if template is None:
        template = next((data.chat_template for data in prepared if data.chat_template), None)
    for data in prepared:
        if data.chat_template != template:
            raise ConfigError(
                f"{data.folder} has {_shown(data.chat_template)}, but the run {_shown(template)}; "
                "prepare it again alike, or leave --chat_template out"
            )
    if template is not None and config.bpe_dropout:
        raise ConfigError(
            f"bpe_dropout is {config.bpe_dropout}, but conversations are encoded without; leave it "
            "out"
        )
    return template


def _shown(template: ChatTemplate | None) -> str:
    return "plain texts" if template is None else f"conversations of template {template.name}"
