"""A model from wherever it is."""

import warnings
from pathlib import Path
from typing import Any

import torch

from gptlab import checkpoint
from gptlab.config.model import AttentionBackend
from gptlab.errors import CheckpointError, ConfigError, TokenizerError
from gptlab.interop import hub, own_family
from gptlab.interop.families import family_for
from gptlab.interop.huggingface import is_huggingface, read_document, read_huggingface
from gptlab.interop.nanogpt import nanogpt_tokenizer, read_nanogpt
from gptlab.model import GPT, Network, Transformer
from gptlab.model.stack import Stack
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.tokenizer.pair import SOURCE_FOLDER, source_of, with_sources_of


def load(
    path: str | Path,
    *,
    device: torch.device | str = "cpu",
    attention: AttentionBackend = "auto",
    tokenizer: Tokenizer | str | Path | None = None,
    adapter: str | Path | None = None,
) -> tuple[Network, Tokenizer]:
    """The model at `path`, in evaluation mode, and its tokenizer.

    It is a GPT, or what else a checkpoint says it is: an encoder or a Transformer, whose tokenizer
    is a `PairTokenizer` where sources have one of their own.

    Its numbers are of the type that they were saved in. Its vocabulary may be larger than the
    tokenizer's.

    Args:
        path: A run, whose newest checkpoint is meant, a checkpoint's folder, a folder of Hugging
            Face's transformers, a `.pt` file of nanoGPT, or a name on Hugging Face's hub.
        device: Where the model goes.
        attention: The backend of this machine, not of that which trained the model.
        tokenizer: Instead of the model's own; one, or where it is, as `load_tokenizer` takes it. A
            single one is for targets, where sources have one of their own. One whose ids stand for
            other texts than the model's own is warned of.
        adapter: Adapters to merge into the model: what `gptlab.checkpoint.save_adapter` wrote, or
            a run that trained them. The tokenizer is theirs then, unless one is named.

    Raises:
        CheckpointError: There is no model, it is damaged, is of no kind that is known here, or has
            no tokenizer; or the adapters are of another model.
        ConfigError: The tokenizer has more ids than the model.
        TokenizerError: There is no tokenizer where `tokenizer` says.
    """
    named = load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
    found = find_model(path)
    model = _model_in(found, device=device, attention=attention)
    own = _own_tokenizer(found, model, is_needed=named is None)
    if adapter is not None:
        if not isinstance(model, Stack):
            raise CheckpointError(
                f"{path} is an encoder-decoder, which has no adapters; leave them out"
            )
        model, theirs = checkpoint.with_adapter(model, adapter)
        own = theirs if named is None else own
    chosen = own if named is None else with_sources_of(named, own)
    assert chosen is not None
    require_ids(chosen, model, of=tokenizer if isinstance(tokenizer, str | Path) else path)
    if named is not None and own is not None:
        warn_of_other_texts(named, own, model=path)
    return model, chosen


def _model_in(found: Path, *, device: torch.device | str, attention: AttentionBackend) -> Network:
    if found.is_file():
        return read_nanogpt(found, device=device, attention=attention)
    if is_huggingface(found):
        return read_huggingface(found, device=device, attention=attention)
    checkpoint.require_language_model(found)
    checkpoint.verify(found)
    return checkpoint.load_model(found, device=device, attention=attention)


def _own_tokenizer(found: Path, model: Network, *, is_needed: bool) -> Tokenizer | None:
    """The tokenizer of a model; None where another one is named, and it has none to be read."""
    if found.is_file():
        return nanogpt_tokenizer(require_gpt(model, found), found) if is_needed else None
    try:
        return tokenizer_in(found)
    except CheckpointError:
        # What encodes sources is not named.
        if is_needed or (found / SOURCE_FOLDER).is_dir():
            raise
        return None


def load_gpt(path: str | Path, **options: Any) -> tuple[GPT, Tokenizer]:
    """`load`, for what is done with a GPT alone.

    Raises:
        CheckpointError: The model is another one; or as `load`.
    """
    model, tokenizer = load(path, **options)
    return require_gpt(model, path), tokenizer


def require_gpt(model: Network, of: str | Path) -> GPT:
    """`model`, which must be a GPT.

    Raises:
        CheckpointError: It is none; `of` names where it is from.
    """
    if not isinstance(model, GPT):
        raise CheckpointError(
            f"{of} is no GPT but of architecture {model.architecture}, with which this can't be "
            "done; give a GPT"
        )
    return model


def require_ids(tokenizer: Tokenizer, model: Network, *, of: str | Path) -> None:
    """Refuse a tokenizer with more ids than the model; one with fewer leaves rows without use.

    Raises:
        ConfigError: It has; `of` names where it is from.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {of} has {tokenizer.vocab_size} tokens, but the model knows "
            f"{model.config.vocab_size}; give the tokenizer that it was trained with"
        )
    if not isinstance(model, Transformer):
        return
    source_size = source_of(tokenizer).vocab_size
    if source_size > model.config.source_size:
        raise ConfigError(
            f"the tokenizer of {of} for sources has {source_size} tokens, but the model knows "
            f"{model.config.source_size}; give the tokenizer that it was trained with"
        )


def warn_of_other_texts(tokenizer: Tokenizer, own: Tokenizer, *, model: str | Path) -> None:
    """Warn if ids of `tokenizer` stand for other texts than those of a model's `own`."""
    ids = range(min(tokenizer.vocab_size, own.vocab_size))
    others = sum(_text_of(tokenizer, id_) != _text_of(own, id_) for id_ in ids)
    if others:
        warnings.warn(
            f"{others:,} of {len(ids):,} ids of the tokenizer stand for other texts than in that "
            f"of {model}, which knows its own alone; leave the tokenizer out, or give that one",
            stacklevel=2,
        )


def _text_of(tokenizer: Tokenizer, token_id: int) -> str | None:
    """None where the vocabulary has a gap."""
    try:
        return tokenizer.decode([token_id])
    except TokenizerError:
        return None


def find_model(path: str | Path) -> Path:
    """Where the model lies that `path` means: a checkpoint, a folder of transformers, or a file.

    A model that is named as on Hugging Face's hub, and nowhere here, is downloaded.

    Raises:
        CheckpointError: There is none, or it can't be downloaded.
    """
    place = Path(path)
    if place.is_file() or is_huggingface(place):
        return place
    if hub.is_name(str(path)):
        return hub.download(str(path))
    return checkpoint.find_checkpoint(place)


def tokenizer_in(folder: Path) -> Tokenizer:
    """The tokenizer in a model's folder.

    Raises:
        CheckpointError: There is none that can be read.
    """
    try:
        return load_tokenizer(folder)
    except TokenizerError as error:
        raise CheckpointError(f"{folder} has no usable tokenizer: {error}") from None


def family_name(found: Path) -> str:
    """The family of the model that `find_model` found, or the tool that it is of."""
    if found.is_file():
        return "nanoGPT"
    if not is_huggingface(found):
        return "gptlab"
    document = read_document(found)
    return own_family.NAME if own_family.is_own(document) else family_for(document).name
