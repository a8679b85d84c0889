"""What a fine-tuning run begins with: a trained model and its tokenizer, as the run wants them."""

from dataclasses import dataclass

from gptlab import interop
from gptlab.checkpoint import add_special_tokens, named_model
from gptlab.checkpoint.adapters import fingerprint
from gptlab.config import LoRA, ModelConfig, TrainConfig, TransformerConfig
from gptlab.config.training import AUTO
from gptlab.errors import ConfigError
from gptlab.interop.loading import warn_of_other_texts
from gptlab.model import Network, add_lora, grow_vocabulary
from gptlab.model.architectures import config_class
from gptlab.model.lora import all_modules, freeze_all_but_last, require_plain
from gptlab.model.settings import FREE, with_settings
from gptlab.model.stack import Stack
from gptlab.tokenizer import Tokenizer, load_tokenizer
from gptlab.tokenizer.chat import with_template_tokens
from gptlab.tokenizer.lower_case import lower_cased
from gptlab.tokenizer.mask import with_mask
from gptlab.tokenizer.pair import with_sources_of
from gptlab.training.allocation import give_freed_memory_back
from gptlab.training.chat import named_template


@dataclass(frozen=True)
class Pretrained:
    """A model in float32, of which what learns has `requires_grad`, and its tokenizer."""

    model: Network
    tokenizer: Tokenizer


def load_pretrained(config: TrainConfig) -> tuple[TrainConfig, Pretrained]:
    """The settings of a run with those of the model in `init_from`, and that model.

    Raises:
        ConfigError: The settings contradict the model.
        GptlabError: The model or a tokenizer is missing, damaged, or can't be what is asked for.
    """
    assert config.init_from is not None
    model, own = interop.load(named_model(config.init_from, config.runs_dir))
    if model.architecture != config.architecture:
        raise ConfigError(
            f"{config.init_from} is of architecture {model.architecture}, but the run of "
            f"{config.architecture}; write --architecture {model.architecture}, or begin with "
            "another model"
        )
    require_plain(model, "train")
    model.float()
    settings = _settings(config, model.config)
    tokenizer = _tokenizer(config, own, model)
    # Of the model as it was saved, before it is changed.
    lora = _lora(config, model) if config.lora_rank and isinstance(model, Stack) else None
    model = with_settings(
        model,
        seq_len=settings.seq_len,
        dropout=settings.dropout,
        attention=settings.attention,
    )
    if isinstance(model, Stack):
        model, tokenizer = _extended(config, model, tokenizer)
        if lora is not None:
            add_lora(model, lora, seed=config.seed)
            if lora.base == "int8":
                # Of the matrices in all their digits, which lie scattered among what is kept.
                give_freed_memory_back()
        freeze(model, config)
    _require_vocab_size(config, settings, model)
    # All of them count as given from here on, the model's context among them.
    return config.model_copy(update=model.config.model_dump()), Pretrained(model, tokenizer)


def _extended(config: TrainConfig, model: Stack, tokenizer: Tokenizer) -> tuple[Stack, Tokenizer]:
    """A model and a tokenizer with the tokens that the run adds to them."""
    if config.special_tokens:
        model, tokenizer = add_special_tokens(
            model, tokenizer, config.special_tokens, seed=config.seed, in_text=True
        )
    # A prepared dataset of conversations has tokens that the model must learn, too.
    template = named_template(config)
    if template is not None:
        tokenizer = with_template_tokens(tokenizer, template)
    if config.learns_masks:
        tokenizer = with_mask(tokenizer)
    vocab_size = max(model.config.vocab_size, tokenizer.vocab_size)
    if vocab_size > model.config.vocab_size:
        model = grow_vocabulary(model, vocab_size, seed=config.seed)
    return model, tokenizer


def freeze(model: Stack, config: TrainConfig) -> None:
    """Keep from learning what shall not, beside what adapters keep from it."""
    if config.train_last_layers is not None:
        freeze_all_but_last(model, config.train_last_layers)


def _settings(config: TrainConfig, own: ModelConfig) -> ModelConfig:
    """The model's own settings, with those that may be others as the user gave them."""
    kind = config_class(config.architecture)
    given = config.model_fields_set & kind.model_fields.keys()
    asked = config.part(kind)
    now, then = _resolved(asked), _resolved(own)
    for name in sorted(given - {*FREE, "vocab_size"}):
        if now[name] != then[name]:
            raise ConfigError(
                f"{name} is {now[name]}, but {config.init_from} has {then[name]}; leave it out"
            )
    free = {name: getattr(asked, name) for name in FREE if name in given}
    return own.replace(**{"attention": asked.attention, **free})


def _resolved(config: ModelConfig) -> dict[str, object]:
    """The settings with what is meant where nothing was given."""
    meant: dict[str, object] = {
        "n_kv_heads": config.kv_heads,
        "head_width": config.head_dim,
        "qkv_bias": config.bias if config.qkv_bias is None else config.qkv_bias,
    }
    if isinstance(config, TransformerConfig):
        meant |= {
            "src_vocab_size": config.source_size,
            "encoder_layers": config.encoder_layers or config.num_layers,
            "share_embeddings": config.shares_embeddings,
        }
    return config.model_dump() | meant


def _require_vocab_size(config: TrainConfig, own: ModelConfig, model: Network) -> None:
    known = {own.vocab_size, model.config.vocab_size}
    if "vocab_size" in config.model_fields_set and config.vocab_size not in known:
        raise ConfigError(
            f"the vocabulary is {config.vocab_size}, but {config.init_from} has {own.vocab_size}; "
            "leave --tgt_vocab_size out"
        )


def _tokenizer(config: TrainConfig, own: Tokenizer, model: Network) -> Tokenizer:
    """The model's, or the one that the user named, which must have as many ids."""
    tokenizer = own
    if config.tokenizer != AUTO:
        kind = None if config.tokenizer_type == "default" else config.tokenizer_type
        tokenizer = load_tokenizer(config.tokenizer, kind=kind)
        if tokenizer.vocab_size != own.vocab_size:
            raise ConfigError(
                f"tokenizer {config.tokenizer} has {tokenizer.vocab_size} tokens, but that of "
                f"{config.init_from} has {own.vocab_size}; leave --tokenizer out, for the model "
                "knows its own ids alone"
            )
        warn_of_other_texts(tokenizer, own, model=str(config.init_from))
        tokenizer = with_sources_of(tokenizer, own)
    if config.src_tokenizer is not None:
        raise ConfigError(
            f"src_tokenizer is {config.src_tokenizer}, but {config.init_from} has a tokenizer for "
            "sources already; leave it out"
        )
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {config.init_from} has {tokenizer.vocab_size} tokens, but the model "
            f"{model.config.vocab_size}; give the tokenizer that it was trained with"
        )
    return lower_cased(tokenizer) if config.lower_case else tokenizer


def _lora(config: TrainConfig, model: Stack) -> LoRA:
    assert config.lora_rank is not None
    return LoRA(
        rank=config.lora_rank,
        alpha=config.lora_alpha or 2 * config.lora_rank,
        dropout=config.lora_dropout,
        modules=config.lora_modules or all_modules(model),
        base=config.lora_base,
        vocab_size=model.config.vocab_size,
        fingerprint=fingerprint(model),
    )
