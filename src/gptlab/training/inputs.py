"""What a run reads: its tokenizer, its training tokens and its evaluation tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from gptlab.config import HeadSettings, TrainConfig
from gptlab.config.training import AUTO, TOY_EVAL, TOY_TOKENIZER, TOY_TRAIN
from gptlab.data import TokenDataset, prepare_cached, toy
from gptlab.data.conversations import Chat
from gptlab.data.labelled import LabelledDataset
from gptlab.data.pairs import PairDataset
from gptlab.data.sampler import has_own_windows
from gptlab.data.text_size import MeasuredDataset
from gptlab.errors import ConfigError, DataError
from gptlab.tokenizer import Tokenizer, train_bpe
from gptlab.tokenizer.chat import ChatTemplate, with_template_tokens
from gptlab.tokenizer.lower_case import lower_cased
from gptlab.tokenizer.mask import with_mask
from gptlab.tokenizer.pair import PairTokenizer
from gptlab.training.chat import chat_template_of
from gptlab.training.masked_inputs import readable, require_made_by, require_plain_texts
from gptlab.training.run_tokenizer import CACHE, open_tokenizer, save_whole, shows_progress
from gptlab.training.sources import Data, Say, Source, open_data, open_sources, weighted_paths

TOY_VOCAB_SIZE = 384


@dataclass(frozen=True)
class TrainingData:
    """The tokens of one source."""

    name: str
    dataset: TokenDataset
    weight: Fraction | None
    """Of its windows among those of all sources; None for their number."""


@dataclass(frozen=True)
class LabelledInputs:
    """Texts with labels, which a run with a head reads instead of tokens."""

    train: LabelledDataset
    evaluation: LabelledDataset
    head: HeadSettings
    """With the labels, or the number of values, of these texts."""


@dataclass(frozen=True)
class PairInputs:
    """Sources and targets, which a Transformer's run reads instead of tokens."""

    train: PairDataset
    evaluation: PairDataset


@dataclass(frozen=True)
class Inputs:
    """A tokenizer and datasets made with it."""

    tokenizer: Tokenizer
    train: tuple[TrainingData, ...]
    evaluation: tuple[TokenDataset, ...]
    """Those with windows of their own are measured."""
    seq_len: int
    """The run's, or the length of the datasets' own windows if the user gave none."""
    floor: float | None
    """The evaluation text's true -log p in nats per character, where its grammar is known."""
    chat_template: ChatTemplate | None = None
    """How the conversations are written, where that is what they are."""
    labelled: LabelledInputs | None = None
    """In the place of `train` and `evaluation`, which are empty then."""
    pairs: PairInputs | None = None
    """Likewise."""

    @property
    def examples(self) -> LabelledInputs | PairInputs | None:
        """What is read in the place of a stream of tokens."""
        return self.labelled or self.pairs

    @property
    def found(self) -> dict[str, Any]:
        """Settings of the run that follow from what it reads."""
        if self.labelled is not None:
            head = self.labelled.head
            return {"labels": head.labels, "num_values": head.num_values}
        return {}

    @property
    def sizes(self) -> dict[str, int]:
        """The vocabularies of a new model."""
        sizes = {"vocab_size": self.tokenizer.vocab_size}
        if isinstance(self.tokenizer, PairTokenizer):
            sizes["src_vocab_size"] = self.tokenizer.source.vocab_size
        return sizes


def load_inputs(config: TrainConfig, *, saved: Tokenizer | None, say: Say) -> Inputs:
    """Open, or make, everything that `config` reads.

    Args:
        config: The run.
        saved: The tokenizer of the checkpoint from which the run goes on.
        say: Told, a line each, what was made that the user did not name.

    Raises:
        DataError, TokenizerError, ConfigError: Something is missing, damaged, or does not fit.
    """
    write_shipped_data(config, say)
    sources = open_sources(config, say)
    _require_texts_for_dropout(config, sources)
    evaluation = [source.evaluation for source in sources if source.evaluation is not None]
    if config.eval_data != AUTO:
        evaluation = [open_data([config.eval_data], config, say)]
    template = chat_template_of(config, [*(source.train for source in sources), *evaluation])
    if config.learns_masks:
        require_plain_texts([template])
    tokenizer = saved or open_tokenizer(config, sources, say=say, template=template)
    if config.lower_case:
        # One that does so already stays as it is.
        tokenizer = lower_cased(tokenizer)
    if template is not None:
        tokenizer = with_template_tokens(tokenizer, template)
    read = [*(source.train for source in sources), *evaluation]
    made_by = frozenset({tokenizer.fingerprint()})
    if config.learns_masks:
        before, tokenizer = tokenizer, with_mask(tokenizer)
        made_by = readable(tokenizer, before, read)
    encode = partial(
        _tokens, tokenizer=tokenizer, made_by=made_by, config=config, template=template
    )
    train = tuple(
        TrainingData(source.name, encode(source.train, dropout=config.bpe_dropout), source.weight)
        for source in sources
    )
    held_out = tuple(encode(part, dropout=0.0) for part in evaluation)
    _verify(data for data in read if isinstance(data, TokenDataset))
    if all(len(dataset) < 2 for dataset in held_out):
        raise _too_short(config, evaluation[0], held_out[0])
    seq_len = _seq_len(config, [*(data.dataset for data in train), *held_out])
    floor = _floor(evaluation[0], held_out[0]) if len(evaluation) == 1 else None
    # How much text is in hidden tokens says little of a model.
    measure = (lambda dataset, _: dataset) if config.learns_masks else measured
    evaluated = tuple(measure(dataset, tokenizer) for dataset in held_out)
    return Inputs(tokenizer, train, evaluated, seq_len, floor, template)


def write_shipped_data(config: TrainConfig, say: Say) -> None:
    """Write the shipped stories and their tokenizer where the defaults look, if not there yet."""
    named = {path for path, _ in weighted_paths(config.train_data)}
    named |= {config.eval_data, config.tokenizer}
    if not all(Path(path).exists() for path in named & {TOY_TRAIN, TOY_EVAL}):
        train, evaluation = toy.write_toy_corpus(Path(TOY_TRAIN).parent)
        say(f"wrote the shipped stories: {train}, {evaluation}")
    if config.tokenizer == TOY_TOKENIZER and not Path(TOY_TOKENIZER).exists():
        if not Path(TOY_TRAIN).exists():
            toy.write_toy_corpus(Path(TOY_TRAIN).parent)
        save_whole(train_bpe([TOY_TRAIN], vocab_size=TOY_VOCAB_SIZE), Path(TOY_TOKENIZER))
        say(f"wrote the stories' tokenizer: {TOY_TOKENIZER}")


def _require_texts_for_dropout(config: TrainConfig, sources: list[Source]) -> None:
    for source in sources:
        if config.bpe_dropout and isinstance(source.train, TokenDataset):
            raise ConfigError(
                f"{source.name} is prepared already, so that bpe_dropout {config.bpe_dropout} "
                "comes too late; give its text, or leave bpe_dropout out"
            )


def _tokens(
    data: Data,
    *,
    tokenizer: Tokenizer,
    made_by: frozenset[str],
    config: TrainConfig,
    template: ChatTemplate | None,
    dropout: float,
) -> TokenDataset:
    """The tokens of `data`, encoded now or found whole where they were prepared."""
    if isinstance(data, TokenDataset):
        return require_made_by(data, tokenizer, made_by)
    return prepare_cached(
        data,
        tokenizer,
        cache=Path(config.runs_dir) / CACHE,
        dropout=dropout,
        seed=config.seed,
        chat=None if template is None else Chat(template, config.seq_len),
        progress=shows_progress(config),
    )


def _verify(datasets: Iterable[TokenDataset]) -> None:
    """Read each of their files once, though datasets may share some."""
    known: frozenset[Path] = frozenset()
    for dataset in datasets:
        known |= dataset.verify(known=known)


def measured(dataset: TokenDataset, tokenizer: Tokenizer) -> TokenDataset:
    """`dataset`, and how much text its windows predict where they are its own.

    Raises:
        DataError: It has no window, or another tokenizer made it.
    """
    if not has_own_windows(dataset):
        return dataset
    return MeasuredDataset(dataset.folder, tokenizer=tokenizer)


def _too_short(config: TrainConfig, data: Data, dataset: TokenDataset) -> DataError:
    if config.eval_data != AUTO:
        what, remedy = f"evaluation data {config.eval_data}", "give a longer --eval_data"
    elif isinstance(data, TokenDataset):
        what = f"held-out part {data.folder}"
        remedy = "prepare the data again with a larger --dev_size, or write --eval_data"
    else:
        what, remedy = "held-out text", "write a larger --dev_size, or --eval_data"
    return DataError(
        f"the {what} has {len(dataset)} token(s), but it takes at least 2 to predict one; {remedy}"
    )


def _seq_len(config: TrainConfig, datasets: list[TokenDataset]) -> int:
    """The run's seq_len, which the longest windows of a dataset decide unless the user did."""
    own = [
        (length, dataset.folder)
        for dataset in datasets
        if (length := dataset.windows.length) is not None
    ]
    if not own:
        return config.seq_len
    length, folder = max(own, key=itemgetter(0))
    if "seq_len" not in config.model_fields_set:
        return length
    if config.seq_len < length:
        raise ConfigError(
            f"the windows of {folder} have {length} tokens, but seq_len is {config.seq_len}; "
            f"write --seq_len {length}"
        )
    return config.seq_len


def _floor(evaluation: Data, dataset: TokenDataset) -> float | None:
    """Nats per character of the shipped kind of stories, else None."""
    if isinstance(evaluation, TokenDataset) or not evaluation.is_one_text:
        return None
    beginning = next(next(evaluation.streams()))
    if toy.log_likelihood(beginning.partition(toy.SEPARATOR)[0]) is None:
        return None
    likelihood = toy.log_likelihood(next(evaluation.documents()))
    return None if likelihood is None else -likelihood / int(dataset.manifest["characters"])
