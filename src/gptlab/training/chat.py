"""Which form the conversations of a run have."""

from collections.abc import Iterable

from gptlab.config import TrainConfig
from gptlab.corpus import Corpus
from gptlab.data import TokenDataset
from gptlab.data.shards import is_dataset
from gptlab.errors import ConfigError
from gptlab.tokenizer.chat import ChatTemplate, find_template
from gptlab.training.sources import Data, weighted_paths


def named_template(config: TrainConfig) -> ChatTemplate | None:
    """The template that the settings name, or that of a prepared dataset which they name.

    Raises:
        ConfigError: There is no such template.
        DataError: A dataset is damaged.
    """
    if config.chat_template is not None:
        return find_template(config.chat_template)
    named = [*(path for path, _ in weighted_paths(config.train_data)), config.eval_data]
    templates = (TokenDataset(path).chat_template for path in named if is_dataset(path))
    return next((template for template in templates if template is not None), None)


def chat_template_of(config: TrainConfig, read: Iterable[Data]) -> ChatTemplate | None:
    """The template of a run's conversations; None where it is on plain texts.

    Raises:
        ConfigError: There is no such template, it is not that of a dataset in `read`, some of that
            is of conversations and some of plain texts, or dropout is asked for.
    """
    template = named_template(config)
    for data in read:
        if isinstance(data, TokenDataset) and data.chat_template != template:
            raise ConfigError(
                f"{data.folder} has {_shown(data.chat_template)}, but the run {_shown(template)}; "
                "prepare it again alike, or leave --chat_template out"
            )
        if isinstance(data, Corpus) and template is not None and not data.conversations:
            raise ConfigError(
                f"{data.root} is read as plain texts, but the run has {_shown(template)}; write "
                "--chat_template if these are conversations as well, or give others that are"
            )
    if template is not None and config.bpe_dropout:
        raise ConfigError(
            f"bpe_dropout is {config.bpe_dropout}, but conversations are encoded without; leave it "
            "out"
        )
    return template


def _shown(template: ChatTemplate | None) -> str:
    return "plain texts" if template is None else f"conversations of template {template.name}"
