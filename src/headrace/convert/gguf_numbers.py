"""The numbers of a model as the keys of a GGUF file, under llama.cpp's names.

In: a ModelConfig and the config.json it was read from. Out: keys, and the lists of rope factors
that GGUF keeps as tensors. Whatever the keys do not say again when they are read back is refused by
name, but windows: a context no longer than the window never meets it, so it is made that short.
Source: llama.cpp, convert_hf_to_gguf.py, set_gguf_parameters of each architecture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from headrace.core.errors import UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.models.gemma3 import GLOBAL_EVERY
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.models.rope_config import (
    BETA_FAST,
    BETA_SLOW,
    huggingface_rope_settings,
    yarn_mscale,
)
from headrace.weights.gguf_writer import KeyValue
from headrace.weights.names import GGUF_WORDS

_TOLERANCE = 1e-6  # GGUF keeps numbers as float32
# The file's kind, not its numbers; and lists that are tensors.
_NOT_COMPARED = ("model_type", "is_head_tied", "long_rope", "original_max_model_len")


@frozen
class GgufNumbers:
    """Keys, tensors of rope factors by name, and what was changed, in words for people."""

    keys: Mapping[str, KeyValue]
    rope_factors: Mapping[str, Sequence[float]]
    notes: tuple[str, ...] = ()


def gguf_numbers(
    architecture: str, config: ModelConfig, metadata: Mapping[str, Any]
) -> GgufNumbers:
    """Say the model's numbers in GGUF. `metadata`: its config.json.

    Raises: UnsupportedFormat for a number that GGUF has no key for.
    """
    text = metadata.get("text_config", metadata)
    word = GGUF_WORDS.get(architecture, architecture)
    factors = _factors(config, text)
    numbers = {
        **_sizes(config),
        **_attention(config, architecture),
        **_rope(config, architecture, text),
        **_experts(config),
    }
    keys: dict[str, KeyValue] = {"general.architecture": word}
    keys |= {f"{word}.{name}": value for name, value in numbers.items()}
    wanted = config
    notes: tuple[str, ...] = ()
    context = _context_within_windows(config, _read(architecture, keys))
    if context < config.max_model_len:
        keys[f"{word}.context_length"] = context
        wanted = _without_windows(config, context)
        notes = (
            f"The context is {context} tokens, not {config.max_model_len}: GGUF has no key for "
            "the windows of this model, which begin to matter there.",
        )
    _refuse_unsaid(wanted, _read(architecture, keys), bool(factors))
    return GgufNumbers(keys, factors, notes)


def _sizes(config: ModelConfig) -> dict[str, KeyValue]:
    return {
        "block_count": config.num_layers,
        "context_length": config.max_model_len,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }


def _attention(config: ModelConfig, architecture: str) -> dict[str, KeyValue]:
    spec = config.attention[0]
    found: dict[str, KeyValue] = {
        "attention.head_count": spec.num_heads,
        "attention.head_count_kv": spec.num_kv_heads,
        "attention.key_length": spec.head_size,
        "attention.value_length": spec.head_size,
    }
    windows = [each.window for each in config.attention]
    if architecture in ("gemma2", "gemma3", "phi3"):
        found["attention.sliding_window"] = max(window or 0 for window in windows)
    if architecture == "gemma3" and windows[-1:] != windows[:1]:
        period = windows.index(None) + 1
        if period != GLOBAL_EVERY:
            found["attention.sliding_window_pattern"] = period
    if spec.soft_cap is not None:
        found["attn_logit_softcapping"] = float(spec.soft_cap)
    if config.logit_soft_cap is not None:
        found["final_logit_softcapping"] = float(config.logit_soft_cap)
    return found


def _rope(config: ModelConfig, architecture: str, text: Mapping[str, Any]) -> dict[str, KeyValue]:
    """Of the layers without windows; those of Gemma 3 with one have a base of their own."""
    windows = [spec.window for spec in config.attention]
    rope = config.ropes[windows.index(None) if None in windows else 0]
    found: dict[str, KeyValue] = {
        "rope.dimension_count": rope.rotary_size,
        "rope.freq_base": rope.theta,
    }
    if architecture == "gemma3":
        local = (i for i, window in enumerate(windows) if window is not None)
        found["rope.freq_base_swa"] = config.ropes[next(local, 0)].theta
    settings = huggingface_rope_settings(text, "full_attention")
    kind = settings.get("rope_type") or settings.get("type")
    if kind == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(settings["factor"])}
    elif kind == "yarn":
        plain = int(text.get("max_position_embeddings", config.max_model_len))
        found |= _yarn(settings, rope.attention_factor, plain)
    elif architecture == "phi3":
        original = text.get("original_max_position_embeddings") or config.max_model_len
        found["rope.scaling.original_context_length"] = int(original)
    if config.long_rope is not None:
        found["rope.scaling.original_context_length"] = config.long_rope.original_max_model_len
        found["rope.scaling.attn_factor"] = rope.attention_factor
    return found


def _yarn(
    settings: Mapping[str, Any], attention_factor: float, max_positions: int
) -> dict[str, KeyValue]:
    original = int(settings.get("original_max_position_embeddings") or max_positions)
    factor = float(settings.get("factor") or max_positions / original)
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": attention_factor / yarn_mscale(factor),
        "rope.scaling.yarn_beta_fast": float(settings.get("beta_fast") or BETA_FAST),
        "rope.scaling.yarn_beta_slow": float(settings.get("beta_slow") or BETA_SLOW),
    }


def _experts(config: ModelConfig) -> dict[str, KeyValue]:
    if config.mixture is None:
        return {}
    routing = config.mixture.routing
    found: dict[str, KeyValue] = {
        "expert_count": routing.num_experts,
        "expert_used_count": routing.num_chosen,
        "expert_weights_norm": routing.is_normalized,
        "expert_feed_forward_length": config.mixture.intermediate_size,
    }
    if config.mixture.shared_intermediate_size:
        found["expert_shared_feed_forward_length"] = config.mixture.shared_intermediate_size
    return found


def _factors(config: ModelConfig, text: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    if config.long_rope is not None:
        return {
            "rope_factors_long": config.long_rope.long_factors,
            "rope_factors_short": config.long_rope.short_factors,
        }
    settings = huggingface_rope_settings(text)
    kind = settings.get("rope_type") or settings.get("type")
    factors = config.ropes[0].factors
    return {"rope_freqs": factors} if kind == "llama3" and factors is not None else {}


def _read(architecture: str, keys: Mapping[str, KeyValue]) -> ModelConfig:
    """What headrace reads of the keys."""
    return model_class(architecture).config_from_gguf(keys)


def _context_within_windows(config: ModelConfig, said: ModelConfig) -> int:
    """The longest context in which no window that the keys do not say takes a token away."""
    lost = [
        spec.window
        for spec, again in zip(config.attention, said.attention, strict=True)
        if spec.window is not None and again.window is None
    ]
    return min([config.max_model_len, *lost])


def _without_windows(config: ModelConfig, context: int) -> ModelConfig:
    return replace(
        config,
        max_model_len=context,
        attention=tuple(replace(spec, window=None) for spec in config.attention),
        ropes=tuple(replace(rope, max_positions=context) for rope in config.ropes),
    )


def _refuse_unsaid(config: ModelConfig, said: ModelConfig, has_factors: bool) -> None:
    """Raises: UnsupportedFormat for the first number that reads back as another."""
    if has_factors:  # they come with the tensors
        config = replace(config, ropes=tuple(replace(rope, factors=None) for rope in config.ropes))
    wanted, found = asdict(config), asdict(said)
    for name in _NOT_COMPARED:
        del wanted[name], found[name]
    for path, value, other in _differences(wanted, found, ""):
        raise UnsupportedFormat(
            f"GGUF has no key that makes {path.lstrip('.')} of this model {value!r}: readers would "
            f"take {other!r}. Run the folder as it is."
        )


def _differences(value: Any, other: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(value, dict) and isinstance(other, dict):
        for key in value:
            yield from _differences(value[key], other[key], f"{path}.{key}")
    elif isinstance(value, tuple) and isinstance(other, tuple) and len(value) == len(other):
        for i, (one, two) in enumerate(zip(value, other, strict=True)):
            yield from _differences(one, two, f"{path}[{i}]")
    elif isinstance(value, float) and isinstance(other, int | float):
        if not math.isclose(value, other, rel_tol=_TOLERANCE):
            yield path, value, other
    elif value != other:
        yield path, value, other
