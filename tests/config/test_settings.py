import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import gptlab
from gptlab.config import (
    PRESETS,
    DatasetConfig,
    ModelConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainConfig,
    preset,
)
from gptlab.config.presets import layered
from gptlab.errors import ConfigError


def test_model_defaults_are_the_documented_ones():
    config = ModelConfig()
    assert (config.embed_dim, config.vocab_size, config.seq_len) == (384, 384, 256)
    assert (config.num_layers, config.expansion_factor, config.n_heads) == (6, 4, 6)


def test_dataset_and_training_defaults_are_the_documented_ones():
    assert DatasetConfig().batch_size == 64
    assert DatasetConfig().shuffle is True
    config = TrainConfig()
    assert config.tokenizer == "./toy_data/tiny_sp"
    assert config.train_data == ("./toy_data/tiny_sp_train.txt",)
    assert config.eval_data == "./toy_data/tiny_sp_test.txt"
    assert (config.epochs, config.save_every_epochs, config.tokenizer_type) == (100, 5, "default")
    assert TrainConfig(train_data="a.txt").eval_steps == 500


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        ("a.txt", ("a.txt",)),
        ("a.txt:0.5", ("a.txt:0.5",)),
        (["a.txt:0.7", "b:0.3"], ("a.txt:0.7", "b:0.3")),
    ],
)
def test_training_data_is_one_source_or_several(given, sources):
    config = TrainConfig(train_data=given)
    assert config.train_data == sources
    assert (config.tokenizer, config.eval_data) == ("auto", "auto")
    assert TrainConfig(**json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize("bad", ["", [], [""], ["a", 3], 3])
def test_training_data_has_at_least_one_name(bad):
    with pytest.raises(ConfigError, match=r"^train_data"):
        TrainConfig(train_data=bad)


def test_documents_are_kept_apart_only_if_asked_for():
    config = TrainConfig().part(DatasetConfig)
    assert (config.document_mask, config.reset_positions) == (None, None)
    assert DatasetConfig(reset_positions=True).document_mask is None


def test_settings_are_frozen():
    config = ModelConfig()
    with pytest.raises(ValidationError):
        config.embed_dim = 3


@pytest.mark.parametrize("cls", [ModelConfig, DatasetConfig, TrainConfig, SamplingConfig])
def test_an_unknown_name_is_refused(cls):
    with pytest.raises(ConfigError, match="there is no setting 'nonsense'"):
        cls(nonsense=1)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("embed_dm", "embed_dim"), ("numlayers", "num_layers"), ("vocabsize", "vocab_size")],
)
def test_the_nearest_name_is_suggested(wrong, right):
    with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
        TrainConfig(**{wrong: 3})


@pytest.mark.parametrize(
    "bad",
    [
        {"embed_dim": 0},
        {"embed_dim": "wide"},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"vocab_size": 2.5},
        {"positions": "relative"},
        {"norm_eps": float("nan")},
        {"expansion_factor": float("inf")},
    ],
)
def test_a_bad_value_is_one_line_that_names_setting_and_value(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**bad)
    message = str(caught.value)
    assert message.startswith(f"{name} is {value!r}")
    assert "\n" not in message


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_bpe_dropout_leaves_some_merges(share):
    with pytest.raises(ConfigError, match=f"bpe_dropout is {share}"):
        TrainConfig(bpe_dropout=share)


def test_both_names_of_the_vocabulary():
    assert ModelConfig(vocab_size=300) == ModelConfig(tgt_vocab_size=300)
    assert TrainConfig(tgt_vocab_size=300).part(ModelConfig).vocab_size == 300


@pytest.mark.parametrize(
    ("bad", "remedy"),
    [
        ({"embed_dim": 100, "n_heads": 6}, "--embed_dim 102"),
        ({"n_heads": 6, "n_kv_heads": 4}, "divisors"),
        ({"embed_dim": 18, "n_heads": 6}, "even width"),
        ({"embed_dim": 15, "n_heads": 3, "positions": "sinusoidal"}, "--embed_dim 16"),
    ],
)
def test_shapes_that_do_not_fit_say_what_to_write(bad, remedy):
    with pytest.raises(ConfigError, match=remedy):
        ModelConfig(**bad)


@given(heads=st.integers(1, 8), width=st.integers(1, 64))
def test_heads_divide_the_width_or_it_is_refused(heads, width):
    if width % heads:
        with pytest.raises(ConfigError):
            ModelConfig(embed_dim=width, n_heads=heads, positions="none")
    else:
        config = ModelConfig(embed_dim=width, n_heads=heads, positions="none")
        assert config.head_dim * heads == width


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_fits_a_training_run(name):
    config = TrainConfig.from_preset(name, train_data="text.txt")
    assert config.part(ModelConfig) == ModelConfig.from_preset(name)


def test_presets_asked_for_exist():
    assert {"tiny", "toy", "nanogpt-char"} <= PRESETS.keys()
    assert {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"} <= PRESETS.keys()
    with pytest.raises(ConfigError, match="did you mean 'gpt2'"):
        preset("gtp2")


def test_training_data_alone_implies_its_own_tokenizer_and_split():
    config = TrainConfig(train_data="text.txt")
    assert (config.tokenizer, config.eval_data) == ("auto", "auto")
    assert config.model_fields_set == {"train_data"}
    named = TrainConfig(train_data="text.txt", tokenizer="tok", eval_data="dev.txt")
    assert (named.tokenizer, named.eval_data) == ("tok", "dev.txt")


@pytest.mark.parametrize("name", ["a/b", "..", "-x", "", "a b", ".hidden"])
def test_an_experiment_name_is_the_name_of_a_folder(name):
    with pytest.raises(ConfigError, match="names a folder"):
        TrainConfig(experiment_name=name)


def test_resume_and_overwrite_exclude_each_other():
    with pytest.raises(ConfigError, match="exclude each other"):
        TrainConfig(resume=True, overwrite=True)


def test_replace_validates():
    config = ModelConfig(n_heads=6)
    assert config.replace(seq_len=8).seq_len == 8
    assert config.replace(seq_len=8).n_heads == 6
    with pytest.raises(ConfigError):
        config.replace(n_heads=7)


def test_parts_hold_only_their_own_fields():
    config = TrainConfig(learning_rate=0.5, batch_size=3, embed_dim=12)
    assert config.part(OptimizerConfig).learning_rate == 0.5
    assert config.part(DatasetConfig).batch_size == 3
    assert "batch_size" not in OptimizerConfig.model_fields


def test_saved_settings_read_back_as_they_were():
    config = TrainConfig(train_data="text.txt", embed_dim=48)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


def test_public_names_are_all_there():
    assert set(gptlab.__all__) <= set(dir(gptlab))
    for name in gptlab.__all__:
        assert getattr(gptlab, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gptlab.nonsense


def test_a_table_of_settings_is_refused_with_the_remedy():
    with pytest.raises(ConfigError, match="settings are flat"):
        TrainConfig(model={"embed_dim": 3})


@pytest.mark.parametrize("cls", [SamplingConfig, DatasetConfig])
def test_a_seed_is_one_that_every_generator_takes(cls):
    assert cls(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(ConfigError, match="seed is 18446744073709551616"):
        cls(seed=2**64)


@pytest.mark.parametrize(
    ("given", "gone"),
    [
        ({"epochs": 2}, {"max_steps"}),
        ({"epochs": 2, "max_steps": 5}, set()),
        ({"optimizer": "sgd"}, {"learning_rate", "momentum"}),
        ({"optimizer": "sgd", "learning_rate": 0.2}, {"momentum"}),
        ({"optimizer": "muon"}, set()),
        ({"micro_batch_size": 4}, {"gradient_accumulation_steps"}),
        ({"micro_batch_size": None}, set()),
    ],
)
def test_a_layer_takes_away_what_it_says_in_another_way(given, gone):
    below = {
        "max_steps": 200,
        "learning_rate": 3e-3,
        "momentum": 0.5,
        "gradient_accumulation_steps": 2,
        "seed": 7,
    }
    assert layered(below, given) == {k: v for k, v in below.items() if k not in gone} | given


def test_a_preset_is_no_reason_to_ignore_what_was_asked_for():
    config = TrainConfig.from_preset("tiny", train_data="a.txt", epochs=2, optimizer="lion")
    assert (config.max_steps, config.epochs) == (None, 2)
    assert (config.learning_rate, config.beta2) == (3e-4, 0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"micro_batch_size": "abc"},
            "micro_batch_size is 'abc', but it should be a valid integer or be 'auto'",
        ),
        (
            {"micro_batch_size": 0},
            "micro_batch_size is 0, but it should be greater than 0 or be 'auto'",
        ),
        ({"key_tokens": [""]}, "key_tokens.0 is '', but string should have at least 1 character"),
        (
            {"min_learning_rate": 0.1},
            "min_learning_rate is 0.1, above the learning_rate of 0.001; write a lower one",
        ),
        ({"key_weight": 3}, "key_weight and key_mode do nothing without key_tokens; write some"),
        (
            {"key_mode": "sample"},
            "key_weight and key_mode do nothing without key_tokens; write some",
        ),
    ],
)
def test_a_mistake_is_said_in_the_words_of_the_user(changes, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig(train_data="a.txt", **changes)
    assert str(error.value) == message
