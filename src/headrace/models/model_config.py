"""ModelConfig: the numbers of an architecture, read from GGUF metadata or a Hugging Face config.

In: a mapping as the file gives it. Out: one frozen record, the same for both kinds of file.
Knows nothing of tensors or devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.ops.protocol import AttentionSpec, RopeParams

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Units: sizes in elements, `max_model_len` in tokens.

    `attention` and `ropes` have one entry per layer. `has_*` say which optional tensors the
    architecture uses. `embed_scale` multiplies embeddings.
    """

    model_type: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    max_model_len: int
    rms_norm_eps: float
    attention: tuple[AttentionSpec, ...]
    ropes: tuple[RopeParams, ...]
    has_qkv_bias: bool = False
    has_qk_norm: bool = False
    embed_scale: float = 1.0
    logit_soft_cap: float | None = None

    @property
    def num_kv_layers(self) -> int:
        return len(self.attention)


class GGUFFields:
    """Typed access to `<architecture>.<key>` of GGUF metadata, with errors that name the key."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self.metadata = metadata
        self.prefix = str(metadata.get("general.architecture", ""))

    def number(self, key: str, default: float | None = None) -> float:
        return float(cast(float, self._value(key, default)))

    def integer(self, key: str, default: int | None = None) -> int:
        return int(cast(int, self._value(key, default)))

    def optional(self, key: str) -> Any:
        return self.metadata.get(f"{self.prefix}.{key}")

    def vocab_size(self) -> int:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return len(cast(list[str], tokens)) if tokens is not None else self.integer("vocab_size")

    def _value(self, key: str, default: object) -> object:
        value = self.metadata.get(f"{self.prefix}.{key}", default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ModelFileError(
                f"The model's metadata has {self.prefix}.{key} = {value!r}; a number is needed."
            )
        return value


def required(config: Mapping[str, Any], key: str, kind: type[T]) -> T:
    """A key of a Hugging Face config, with its type checked. Raises: ModelFileError."""
    value = config.get(key)
    if kind is float and isinstance(value, int):
        value = float(value)
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise ModelFileError(f"config.json has {key} = {value!r}; it needs a {kind.__name__}.")
    return value


def check_divisible(num_heads: int, num_kv_heads: int) -> None:
    """Query heads share KV heads evenly. Raises: ModelFileError."""
    if num_heads <= 0 or num_kv_heads <= 0 or num_heads % num_kv_heads:
        raise ModelFileError(
            f"The model has {num_heads} query heads and {num_kv_heads} KV heads; the first must be "
            "a positive multiple of the second."
        )


def gguf_attention(fields: GGUFFields) -> AttentionSpec:
    """The attention constants every GGUF architecture names alike."""
    num_heads = fields.integer("attention.head_count")
    num_kv_heads = fields.integer("attention.head_count_kv", num_heads)
    check_divisible(num_heads, num_kv_heads)
    default = fields.integer("embedding_length") // num_heads
    head_size = fields.integer("attention.key_length", default)
    return AttentionSpec(num_heads, num_kv_heads, head_size, scale=head_size**-0.5)


def huggingface_attention(config: Mapping[str, Any]) -> AttentionSpec:
    """The attention constants of a Hugging Face config."""
    num_heads = required(config, "num_attention_heads", int)
    num_kv_heads = int(config.get("num_key_value_heads") or num_heads)
    check_divisible(num_heads, num_kv_heads)
    head_size = int(config.get("head_dim") or required(config, "hidden_size", int) // num_heads)
    return AttentionSpec(num_heads, num_kv_heads, head_size, scale=head_size**-0.5)


def gguf_rope(fields: GGUFFields, head_size: int, max_model_len: int) -> RopeParams:
    """Plain or linearly scaled rotary embedding. Raises: UnsupportedFormat for other scalings."""
    size = fields.integer("rope.dimension_count", head_size)
    kind = fields.optional("rope.scaling.type")
    factors = None
    if kind == "linear":
        factors = (fields.number("rope.scaling.factor"),) * (size // 2)
    elif kind not in (None, "none"):
        raise UnsupportedFormat(
            f"rope scaling {kind!r} of GGUF is not supported; known: none, linear."
        )
    return RopeParams(fields.number("rope.freq_base", 10000.0), size, max_model_len, factors)


def huggingface_rope_settings(
    config: Mapping[str, Any], layer_type: str | None = None
) -> Mapping[str, Any]:
    """Theta and scaling as one mapping, whether the file has the new or the old spelling."""
    parameters = config.get("rope_parameters")
    if isinstance(parameters, Mapping):
        nested = parameters.get(layer_type) if layer_type else None
        return nested if isinstance(nested, Mapping) else parameters
    settings = dict(config.get("rope_scaling") or {})
    settings.setdefault("rope_type", settings.get("type", "default"))
    settings["rope_theta"] = config.get("rope_theta", 10000.0)
    return settings


def huggingface_rope(
    settings: Mapping[str, Any], config: Mapping[str, Any], head_size: int, max_model_len: int
) -> RopeParams:
    """Rotary embedding of a Hugging Face config: default, linear, llama3, longrope.

    Raises: UnsupportedFormat. Source: transformers' documented rope parameters.
    """
    share = settings.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
    size = int(head_size * share)
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    factors: tuple[float, ...] | None = None
    attention_factor = 1.0
    if kind == "linear":
        factors = (float(settings["factor"]),) * (size // 2)
    elif kind == "llama3":
        factors = llama3_factors(settings, theta, size)
    elif kind == "longrope":
        factors, attention_factor = longrope_factors(settings, config, max_model_len)
    elif kind != "default":
        raise UnsupportedFormat(
            f"rope_type {kind!r} is not supported; known: default, linear, llama3, longrope."
        )
    return RopeParams(theta, size, max_model_len, factors, attention_factor)


def llama3_factors(settings: Mapping[str, Any], theta: float, size: int) -> tuple[float, ...]:
    """Divisors of the inverse frequencies: 1 for short waves, `factor` for long, smooth between.

    Source: Llama 3.1 model card, rope scaling.
    """
    factor = float(settings["factor"])
    low, high = float(settings["low_freq_factor"]), float(settings["high_freq_factor"])
    original = float(settings["original_max_position_embeddings"])
    factors = []
    for i in range(size // 2):
        wavelength = 2 * math.pi * theta ** (2 * i / size)
        if wavelength > original / low:
            factors.append(factor)
        elif wavelength < original / high:
            factors.append(1.0)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1.0 / ((1 - smooth) / factor + smooth))
    return tuple(factors)


def longrope_factors(
    settings: Mapping[str, Any], config: Mapping[str, Any], max_model_len: int
) -> tuple[tuple[float, ...], float]:
    """Phi-3's per-dimension factors and its attention factor.

    The long list is used when max_model_len exceeds the original context, for every position, so
    that an answer does not depend on its own length. Source: arXiv 2402.13753.
    """
    original = config.get("original_max_position_embeddings") or settings.get(
        "original_max_position_embeddings"
    )
    if original is None:
        raise ModelFileError(
            "config.json has longrope scaling but no original_max_position_embeddings."
        )
    full = int(config.get("max_position_embeddings", max_model_len))
    scale = full / original
    attention_factor = settings.get("attention_factor")
    if attention_factor is None:
        attention_factor = (
            1.0 if scale <= 1 else math.sqrt(1 + math.log(scale) / math.log(original))
        )
    name = "long_factor" if max_model_len > original else "short_factor"
    return tuple(float(value) for value in settings[name]), float(attention_factor)
