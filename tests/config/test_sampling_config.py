import math

import pytest

from gptlab.config import SamplingConfig
from gptlab.errors import ConfigError


def test_by_default_the_model_is_drawn_from_as_it_is():
    config = SamplingConfig()
    assert (config.temperature, config.repetition_penalty) == (1.0, 1.0)
    assert (config.presence_penalty, config.frequency_penalty) == (0.0, 0.0)
    assert {config.top_k, config.top_p, config.min_p, config.typical_p} == {None}
    assert (config.logit_bias, config.banned_words, config.stop) == ({}, (), ())


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"top_p": 1.0, "typical_p": 1.0, "min_p": 1.0},
        {"min_p": 0.0},
        {"presence_penalty": -2.0, "frequency_penalty": -2.0},
        {"logit_bias": {0: -100.0, 7: 3.5}},
        {"repetition_penalty": 0.5},
    ],
)
def test_values_at_the_edges_are_taken(settings):
    config = SamplingConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings
    assert config.replace(seed=1).logit_bias == config.logit_bias


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", 0),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("typical_p", 0.0),
        ("typical_p", 1.01),
        ("min_p", -0.01),
        ("min_p", 1.01),
        ("repetition_penalty", 0.0),
        ("presence_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: -math.inf}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"a": 1.0}),
        ("max_new_tokens", 0),
        ("top_logprobs", -1),
    ],
)
def test_values_out_of_range_are_one_line_with_the_name(name, value):
    with pytest.raises(ConfigError, match=name) as raised:
        SamplingConfig(**{name: value})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["banned_words", "stop"])
def test_one_text_may_stand_for_several(name):
    assert getattr(SamplingConfig(**{name: "a b"}), name) == ("a b",)
    assert getattr(SamplingConfig(**{name: ["a", "b"]}), name) == ("a", "b")
