"""RopeParams: the rotary embedding of a model file, with every scaling that headrace runs.

In: GGUF metadata or the rope settings of config.json. Out: divisors of the inverse frequencies,
one list for every position, so that an answer does not depend on its own length.
Knows nothing of tensors; lists that GGUF keeps as tensors are read with the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.models.model_config import GGUFFields, LongRope, is_positive
from headrace.ops.protocol import RopeParams

SCALINGS = ("default", "dynamic", "linear", "llama3", "longrope", "yarn")
"""What `rope_type` of config.json may be."""

BETA_FAST, BETA_SLOW = 32.0, 1.0
"""Turns within the original context above which YaRN keeps a wave, and below which it stretches it
by the whole factor. Source: arXiv 2309.00071, section 3.2."""


@frozen
class Yarn:
    """YaRN's numbers. Units: `original` in tokens. `is_truncated` rounds the ramp to whole dims.

    Source: arXiv 2309.00071.
    """

    factor: float
    original: int
    beta_fast: float = BETA_FAST
    beta_slow: float = BETA_SLOW
    is_truncated: bool = True

    def factors(self, theta: float, size: int) -> tuple[float, ...]:
        """Divisors of the inverse frequencies: from 1 on short waves to `factor` on long ones.

        Raises: ModelFileError.
        """
        if min(self.factor, self.original, self.beta_fast, self.beta_slow) <= 0 or theta <= 1:
            raise ModelFileError(
                f"The model's YaRN numbers are {self} and base {theta:g}; "
                "all must be positive, and the base more than 1."
            )
        low, high = (self._dim(turns, theta, size) for turns in (self.beta_fast, self.beta_slow))
        if self.is_truncated:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, size - 1)
        width = high - low or 0.001
        ramp = (min(max((i - low) / width, 0.0), 1.0) for i in range(size // 2))
        return tuple(1.0 / (part / self.factor + 1.0 - part) for part in ramp)

    def _dim(self, turns: float, theta: float, size: int) -> float:
        """The pair whose wave turns this often within the original context."""
        return size * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))


def yarn_mscale(factor: float, weight: float = 1.0) -> float:
    """What YaRN multiplies cos and sin by. Source: arXiv 2309.00071, equation 22."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def gguf_rope(fields: GGUFFields, head_size: int, max_model_len: int) -> RopeParams:
    """Rotary embedding from metadata; lists of factors are tensors and are read with the weights.

    `max_positions` is longer than `max_model_len` where YaRN stretches the context.
    Raises: UnsupportedFormat for other scalings, ModelFileError.
    """
    size = fields.integer("rope.dimension_count", head_size)
    theta = fields.number("rope.freq_base", 10000.0)
    kind = fields.optional("rope.scaling.type")
    attention_factor = fields.number("rope.scaling.attn_factor", 1.0)
    if kind is None and fields.optional("rope.scale_linear") is not None:  # files of 2023
        return linear_rope(theta, size, max_model_len, fields.number("rope.scale_linear"))
    if kind == "linear":
        return linear_rope(theta, size, max_model_len, fields.number("rope.scaling.factor"))
    if kind == "yarn":
        original = fields.integer("rope.scaling.original_context_length", max_model_len)
        factor = fields.number("rope.scaling.factor")
        yarn = Yarn(
            factor,
            original,
            fields.number("rope.scaling.yarn_beta_fast", BETA_FAST),
            fields.number("rope.scaling.yarn_beta_slow", BETA_SLOW),
        )
        stretched = max(max_model_len, int(original * factor))
        scale = attention_factor * yarn_mscale(factor)
        return RopeParams(theta, size, stretched, yarn.factors(theta, size), scale)
    if kind not in (None, "none", "longrope"):
        raise UnsupportedFormat(
            f"rope scaling {kind!r} of GGUF is not supported; known: none, linear, yarn, longrope."
        )
    return RopeParams(theta, size, max_model_len, None, attention_factor)


def linear_rope(theta: float, size: int, max_model_len: int, factor: float) -> RopeParams:
    """Position interpolation: every wave `factor` times as long. Source: arXiv 2306.15595."""
    return RopeParams(theta, size, max_model_len, (factor,) * (size // 2))


def huggingface_rope_settings(
    config: Mapping[str, Any], layer_type: str | None = None
) -> Mapping[str, Any]:
    """Theta and scaling as one mapping, whether the file has the new or the old spelling.

    Raises: ModelFileError.
    """
    parameters = config.get("rope_parameters")
    if isinstance(parameters, Mapping):
        nested = parameters.get(layer_type) if layer_type else None
        settings = dict(nested if isinstance(nested, Mapping) else parameters)
    else:
        scaling = parameters or config.get("rope_scaling") or {}
        if not isinstance(scaling, Mapping):
            raise ModelFileError(
                f"config.json has rope_scaling = {repr(scaling)[:80]}; it needs an object."
            )
        settings = dict(scaling)
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if settings.get(key) is None and config.get(key) is not None:
            settings[key] = config[key]
    return settings


def huggingface_rope(
    settings: Mapping[str, Any], head_size: int, max_model_len: int
) -> tuple[RopeParams, LongRope | None]:
    """Rotary embedding of a Hugging Face config: see SCALINGS.

    `dynamic` changes nothing up to `max_model_len`, which is where headrace ends; its frequencies
    beyond depend on how long a text has become. `max_positions` is longer than `max_model_len`
    where YaRN stretches the context.
    Raises: UnsupportedFormat, ModelFileError. Source: transformers' documented rope parameters.
    """
    size = int(head_size * setting(settings, "partial_rotary_factor", 1.0))
    theta = setting(settings, "rope_theta", 10000.0)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    plain = RopeParams(theta, size, max_model_len)
    if kind in ("default", "dynamic"):
        return plain, None
    if kind == "linear":
        return linear_rope(theta, size, max_model_len, setting(settings, "factor")), None
    if kind == "llama3":
        return replace(plain, factors=llama3_factors(settings, theta, size)), None
    if kind == "yarn":
        return huggingface_yarn(settings, plain), None
    if kind in ("longrope", "su"):
        long_rope = read_long_rope(settings)
        scale = long_attention_factor(settings, max_model_len)
        return replace(plain, attention_factor=scale), long_rope
    raise UnsupportedFormat(f"rope_type {kind!r} is not supported; known: {', '.join(SCALINGS)}.")


def setting(settings: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number above 0 of the rope parameters. Raises: ModelFileError."""
    value = settings.get(key)
    if value is None and default is not None:
        return default
    if not is_positive(value):
        raise ModelFileError(
            f"config.json has rope {key} = {repr(value)[:80]}; a number above 0 is needed."
        )
    return float(value)  # type: ignore[arg-type]


def llama3_factors(settings: Mapping[str, Any], theta: float, size: int) -> tuple[float, ...]:
    """Divisors of the inverse frequencies: 1 for short waves, `factor` for long, smooth between.

    Source: Llama 3.1 model card, rope scaling.
    """
    factor = setting(settings, "factor")
    low, high = setting(settings, "low_freq_factor"), setting(settings, "high_freq_factor")
    original = setting(settings, "original_max_position_embeddings")
    if low >= high:
        raise ModelFileError(
            f"config.json has rope low_freq_factor = {low} and high_freq_factor = {high}; the "
            "first must be less."
        )
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


def huggingface_yarn(settings: Mapping[str, Any], plain: RopeParams) -> RopeParams:
    """YaRN over plain frequencies. Raises: ModelFileError."""
    key = "original_max_position_embeddings"
    original = int(setting(settings, key)) if settings.get(key) else plain.max_positions
    factor = settings.get("factor")
    factor = plain.max_positions / original if factor is None else setting(settings, "factor")
    yarn = Yarn(
        factor,
        original,
        setting(settings, "beta_fast", BETA_FAST),
        setting(settings, "beta_slow", BETA_SLOW),
        bool(settings.get("truncate", True)),
    )
    scale = yarn_mscale(factor)
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        over, under = (setting(settings, key) for key in ("mscale", "mscale_all_dim"))
        scale = yarn_mscale(factor, over) / yarn_mscale(factor, under)
    scale = setting(settings, "attention_factor", scale)
    return RopeParams(
        plain.theta,
        plain.rotary_size,
        max(plain.max_positions, int(original * factor)),
        yarn.factors(plain.theta, plain.rotary_size),
        scale,
    )


def read_long_rope(settings: Mapping[str, Any]) -> LongRope:
    """Phi-3's two lists of factors. Raises: ModelFileError."""
    lists = []
    for key in ("short_factor", "long_factor"):
        values = settings.get(key)
        if not isinstance(values, list) or not all(map(is_positive, values)):
            raise ModelFileError(
                f"config.json has rope {key} = {repr(values)[:80]}; it needs numbers above 0."
            )
        lists.append(tuple(float(value) for value in values))
    original = int(setting(settings, "original_max_position_embeddings"))
    return LongRope(original, *lists)


def long_attention_factor(settings: Mapping[str, Any], max_model_len: int) -> float:
    """What LongRoPE multiplies cos and sin by: given, or from how far the context is stretched."""
    if settings.get("attention_factor") is not None:
        return setting(settings, "attention_factor")
    original = setting(settings, "original_max_position_embeddings")
    stretch = setting(settings, "factor", max_model_len / original)
    if stretch <= 1 or original <= 1:
        return 1.0
    return math.sqrt(1 + math.log(stretch) / math.log(original))
