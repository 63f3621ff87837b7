"""Configs: old and new spellings of the same numbers, and files that headrace must refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.models.model_config import LongRope, ModelConfig
from headrace.models.registry import model_class

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
GEMMA = PLAIN | {"model_type": "gemma3_text", "head_dim": 64, "sliding_window": 24}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
GEMMA2 = GEMMA | {"model_type": "gemma2"}
QWEN_WINDOWS = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 20}
GGUF: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.vocab_size": 320,
    "llama.embedding_length": 128,
    "llama.feed_forward_length": 192,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 256,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def read(**changes: Any) -> ModelConfig:
    config = {**PLAIN, **changes}
    return model_class(config["model_type"]).config_from_huggingface(config)


def read_gguf(**changes: Any) -> ModelConfig:
    metadata = {**GGUF, **{f"llama.{key}": value for key, value in changes.items()}}
    return model_class("llama").config_from_gguf(metadata)


def test_old_and_new_spelling_of_rope_are_the_same() -> None:
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    old = read(rope_theta=5e5, rope_scaling={"type": "llama3", **scaling})
    new = read(rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling})
    assert old == new
    factors = old.ropes[0].factors
    assert factors is not None
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert list(factors) == sorted(factors)


def test_old_and_new_spelling_of_gemma_are_the_same() -> None:
    old = {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "sliding_window_pattern": 6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    new = {
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 2,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        },
    }
    assert read(**GEMMA | old) == read(**GEMMA | new)


def test_the_text_half_of_an_image_and_text_model_may_leave_numbers_out() -> None:
    text = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "sliding_window": 1024,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    config = model_class("gemma3").config_from_huggingface(
        {"model_type": "gemma3", "text_config": text}
    )
    assert config.vocab_size == 262208
    assert (config.attention[0].window, config.attention[5].window) == (1024, None)
    assert (config.ropes[0].theta, config.ropes[5].theta) == (1e4, 1e6)
    assert config.ropes[0].factors is None
    assert set(config.ropes[5].factors or ()) == {8.0}


def test_windows_belong_to_mistral_and_not_to_llama() -> None:
    assert read(model_type="mistral", sliding_window=20).attention[0].window == 20
    assert read(model_type="mistral", sliding_window=None).attention[0].window is None
    assert read(model_type="llama", sliding_window=20).attention[0].window is None


def test_gemma2_has_windows_in_every_other_layer_and_caps() -> None:
    config = read(**GEMMA2, query_pre_attn_scalar=144)
    assert [spec.window for spec in config.attention[:4]] == [24, None, 24, None]
    assert {spec.soft_cap for spec in config.attention} == {50.0}
    assert config.attention[0].scale == pytest.approx(1 / 12)
    assert config.logit_soft_cap == 30.0
    assert not config.has_qk_norm
    uncapped = read(**GEMMA2, attn_logit_softcapping=None, final_logit_softcapping=None)
    assert (uncapped.attention[0].soft_cap, uncapped.logit_soft_cap) == (None, None)


def test_the_largest_gemma2_scales_by_its_width_per_head() -> None:
    numbers = {
        "block_count": 46,
        "embedding_length": 4608,
        "attention.head_count": 32,
        "attention.head_count_kv": 16,
        "attention.key_length": 128,
        "attention.value_length": 128,
    }
    metadata = {key.replace("llama.", "gemma2."): value for key, value in GGUF.items()}
    metadata |= {f"gemma2.{key}": value for key, value in numbers.items()}
    config = model_class("gemma2").config_from_gguf(metadata | {"general.architecture": "gemma2"})
    assert config.attention[0].scale == pytest.approx(144**-0.5)
    assert [spec.window for spec in config.attention[:2]] == [4096, None]


def test_qwen_windows_begin_at_a_layer_and_only_where_switched_on() -> None:
    config = read(**QWEN_WINDOWS, max_window_layers=10)
    assert [spec.window for spec in config.attention] == [None] * 10 + [20, 20]
    off = read(**QWEN_WINDOWS | {"use_sliding_window": False, "max_window_layers": 10})
    assert {spec.window for spec in off.attention} == {None}


def test_yarn_stretches_the_context() -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    config = read(model_type="qwen2", rope_scaling=scaling)
    assert config.max_model_len == 1024
    rope = config.ropes[0]
    assert rope.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    assert rope.factors is not None
    assert (rope.factors[0], rope.factors[-1]) == (1.0, pytest.approx(4.0))
    gguf = read_gguf(
        **{
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 256,
        }
    )
    assert gguf.ropes[0] == rope
    assert gguf.max_model_len == 1024


def test_dynamic_rope_is_plain_up_to_the_length_it_was_made_for() -> None:
    dynamic = read(rope_scaling={"type": "dynamic", "factor": 2.0})
    assert dynamic.ropes == read().ropes
    assert dynamic.max_model_len == 256


def test_longrope_lists_and_their_threshold() -> None:
    scaling = {"type": "su", "short_factor": [1.0, 1.1], "long_factor": [2.0, 4.0]}
    config = read(model_type="phi3", rope_scaling=scaling, original_max_position_embeddings=64)
    assert config.long_rope == LongRope(64, (1.0, 1.1), (2.0, 4.0))
    assert config.long_rope.factors(64) == (1.0, 1.1)
    assert config.long_rope.factors(65) == (2.0, 4.0)
    assert config.ropes[0].attention_factor == pytest.approx((1 + 2 / 6) ** 0.5)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_scaling": {"rope_type": "proportional", "factor": 4.0}}, "proportional"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        (GEMMA2 | {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (GEMMA2 | {"layer_types": ["chunked_attention"] * 12}, "chunked_attention"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        (GEMMA | {"attn_logit_softcapping": 50.0}, "Gemma"),
        (GEMMA | {"hidden_activation": "silu"}, "hidden_activation"),
        (QWEN_WINDOWS | {"layer_types": ["linear_attention"] * 12}, "linear_attention"),
    ],
)
def test_what_the_forward_does_not_compute_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedFormat, match=named):
        read(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "3 KV heads"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": 1}}, "short_factor"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 0}}, "factor = 0.*above 0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}, "rope_theta": 1.0}, "YaRN"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": [1]}}, "beta_fast"),
        ({"rope_scaling": {"rope_type": "yarn", "attention_factor": "1"}}, "attention_factor"),
        ({"rope_scaling": LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor = 4.*less"),
        ({"rope_scaling": LLAMA3 | {"factor": 0}}, "factor = 0"),
        ({"rope_scaling": "llama3"}, "rope_scaling = 'llama3'.*object"),
        ({"rope_theta": "1e4"}, "rope_theta = '1e4'"),
        ({"rope_theta": math.nan}, "rope_theta = nan"),
        ({"partial_rotary_factor": 2.0}, "rotates 64 of the 32"),
        ({"num_hidden_layers": 2**40}, "num_hidden_layers is 1099511627776"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_key_value_heads": "2"}, "num_key_value_heads is '2'"),
        ({"head_dim": [32]}, r"head_dim is \[32\]"),
        ({"max_position_embeddings": -1}, "max_position_embeddings is -1"),
        ({"model_type": "mistral", "sliding_window": "20"}, "sliding_window is '20'"),
        (GEMMA | {"query_pre_attn_scalar": -4}, "query_pre_attn_scalar = -4"),
        (GEMMA | {"sliding_window_pattern": 2.5}, "sliding_window_pattern is 2.5"),
        (GEMMA2 | {"final_logit_softcapping": "30"}, "final_logit_softcapping = '30'"),
        (GEMMA2 | {"layer_types": 12}, "lists 12 layer_types"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, "factor"),
        (QWEN_WINDOWS | {"layer_types": ["full_attention"]}, "layer_types"),
        (QWEN_WINDOWS | {"max_window_layers": None}, "max_window_layers"),
        (GEMMA | {"layer_types": ["full_attention"]}, "layer_types"),
    ],
)
def test_damaged_numbers_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelFileError, match=named):
        read(**changes)


def test_gguf_linear_rope_and_head_size() -> None:
    config = read_gguf(
        **{
            "attention.key_length": 64,
            "attention.value_length": 64,
            "rope.dimension_count": 32,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 4.0,
        }
    )
    assert config.attention[0].head_size == 64
    assert config.ropes[0].rotary_size == 32
    assert config.ropes[0].factors == (4.0,) * 16


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"rope.scaling.type": "ntk"}, UnsupportedFormat, "ntk"),
        ({"rope.scaling.type": "yarn"}, ModelFileError, "rope.scaling.factor"),
        ({"attention.value_length": 64}, UnsupportedFormat, "64"),
        ({"attention.head_count_kv": [2, 1]}, ModelFileError, "head_count_kv"),
        ({"attention.head_count": 0}, ModelFileError, "head_count is 0"),
        ({"attention.head_count_kv": 3}, ModelFileError, "3 KV heads"),
        ({"block_count": 2.0}, ModelFileError, r"block_count is 2\.0"),
        ({"block_count": 2**40}, ModelFileError, "block_count is 1099511627776"),
        ({"rope.dimension_count": 2**23}, ModelFileError, "rotates 8388608 of the 32"),
        ({"rope.freq_base": math.nan}, ModelFileError, "rope.freq_base = nan"),
        ({"rope.scale_linear": 0.0}, ModelFileError, "factors hold 0.0"),
    ],
)
def test_gguf_numbers_are_checked(
    changes: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        read_gguf(**changes)


def test_a_period_of_no_layers_is_refused() -> None:
    gemma = {key.replace("llama.", "gemma3."): value for key, value in GGUF.items()}
    gemma |= {"general.architecture": "gemma3", "gemma3.attention.sliding_window": 16}
    with pytest.raises(ModelFileError, match="sliding_window_pattern is 0"):
        model_class("gemma3").config_from_gguf(
            {**gemma, "gemma3.attention.sliding_window_pattern": 0}
        )


def test_unknown_architectures_list_the_known_ones() -> None:
    with pytest.raises(UnsupportedFormat, match=r"'mamba'.*gemma3.*llama"):
        model_class("mamba")
