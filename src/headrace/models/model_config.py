"""ModelConfig: the numbers of an architecture, read from GGUF metadata or a Hugging Face config.

In: a mapping as the file gives it. Out: one frozen record, the same for both kinds of file.
Knows nothing of tensors or devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.ops.protocol import AttentionSpec, RopeParams, Routing
from headrace.weights.tensor_source import read_size

SILU = ("silu", "swish")
_MOST = 1e300  # less than infinity, and what a float holds


@frozen
class LongRope:
    """Frequency divisors of LongRoPE: one list up to the original context, one for longer ones.

    Units: original_max_model_len in tokens. Source: arXiv 2402.13753.
    """

    original_max_model_len: int
    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]

    def factors(self, max_positions: int) -> tuple[float, ...]:
        """The list for a context of this size, whatever the length of an answer in it."""
        is_long = max_positions > self.original_max_model_len
        return self.long_factors if is_long else self.short_factors


@frozen
class Mixture:
    """The feed-forward sizes of experts; `shared_intermediate_size` 0 is no shared expert."""

    routing: Routing
    intermediate_size: int
    shared_intermediate_size: int = 0


@frozen
class ModelConfig:
    """Units: sizes in elements, `max_model_len` and `original_max_model_len` in tokens.

    `attention` and `ropes` have one entry per layer. `has_*` say which optional tensors the
    architecture uses. `embed_scale` multiplies embeddings. `is_head_tied` is what the file says of
    an absent head, None where it says nothing. `long_rope` and `original_max_model_len` are set
    where rotary factors depend on the context's length. `mixture` replaces the feed-forward of
    every layer.
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
    is_head_tied: bool | None = None
    long_rope: LongRope | None = None
    original_max_model_len: int | None = None
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        """Raises: ModelFileError for numbers that no model has; readers have checked each alone."""
        if not 1 <= self.max_model_len < 1 << 31:
            raise ModelFileError(f"The model's context has {self.max_model_len} tokens.")
        for spec, rope in zip(self.attention, self.ropes, strict=False):
            _check_rope(rope, spec.head_size)


def _check_rope(rope: RopeParams, head_size: int) -> None:
    if rope.rotary_size % 2 or not 2 <= rope.rotary_size <= head_size:
        raise ModelFileError(
            f"The model rotates {rope.rotary_size} of the {head_size} numbers of a head; allowed: "
            "an even number from 2 to all."
        )
    for name, value in (("base", rope.theta), ("attention factor", rope.attention_factor)):
        if not is_positive(value):
            raise ModelFileError(f"The model's rope {name} is {value}; it must be positive.")
    wrong = [value for value in rope.factors or () if not is_positive(value)]
    if wrong:
        raise ModelFileError(f"The model's rope factors hold {wrong[0]}; they must be positive.")


def is_positive(value: object) -> bool:
    """Whether it is a number above 0 that arithmetic can go on with."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value < _MOST  # type: ignore[operator]


def positive(config: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A number above 0; without a default it must be there. Raises: ModelFileError."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not is_positive(value):
        raise ModelFileError(
            f"config.json has {key} = {repr(value)[:80]}; it needs a number above 0."
        )
    return float(value)  # type: ignore[arg-type]


def optional_cap(config: Mapping[str, Any], key: str) -> float | None:
    """Where scores or logits are capped, None where they are not. Raises: ModelFileError."""
    return positive(config, key) if config.get(key) is not None else None


@runtime_checkable
class CountsItems(Protocol):
    """Metadata that knows how long its arrays are before they are decoded."""

    def count(self, key: str) -> int: ...


class GGUFFields:
    """Typed access to `<architecture>.<key>` of GGUF metadata, with errors that name the key."""

    def __init__(self, metadata: Mapping[str, object]) -> None:
        self.metadata = metadata
        self.prefix = str(metadata.get("general.architecture", ""))

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number. Raises: ModelFileError."""
        value = self.metadata.get(f"{self.prefix}.{key}", default)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not abs(value) < _MOST:  # type: ignore[arg-type]
            raise ModelFileError(
                f"The model's metadata has {self.prefix}.{key} = {repr(value)[:80]}; a number is "
                "needed."
            )
        return float(value)  # type: ignore[arg-type]

    def integer(self, key: str, default: int | None = None) -> int:
        """A size; 0 only where that is what an absent one means. Raises: ModelFileError."""
        return read_size(self.metadata, f"{self.prefix}.{key}", default, int(default != 0))

    def optional(self, key: str) -> Any:
        return self.metadata.get(f"{self.prefix}.{key}")

    def vocab_size(self) -> int:
        key = "tokenizer.ggml.tokens"
        if key not in self.metadata:
            return self.integer("vocab_size")
        if isinstance(self.metadata, CountsItems):
            return self.metadata.count(key)
        return len(cast(list[str], self.metadata[key]))


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
    default = max(1, fields.integer("embedding_length") // num_heads)
    head_size = fields.integer("attention.key_length", default)
    value_size = fields.integer("attention.value_length", head_size)
    if value_size != head_size:
        raise UnsupportedFormat(
            f"The model has keys of {head_size} and values of {value_size} per head; headrace runs "
            "models where they are equal."
        )
    return AttentionSpec(num_heads, num_kv_heads, head_size, scale=head_size**-0.5)


def huggingface_attention(config: Mapping[str, Any]) -> AttentionSpec:
    """The attention constants of a Hugging Face config."""
    num_heads = read_size(config, "num_attention_heads")
    num_kv_heads = read_size(config, "num_key_value_heads", num_heads)
    check_divisible(num_heads, num_kv_heads)
    filling = max(1, read_size(config, "hidden_size") // num_heads)
    head_size = read_size(config, "head_dim", filling)
    return AttentionSpec(num_heads, num_kv_heads, head_size, scale=head_size**-0.5)


def check_activation(config: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> None:
    """Raises: UnsupportedFormat for a feed-forward activation that the class does not compute."""
    value = config.get(key)
    if value is not None and value not in allowed:
        raise UnsupportedFormat(
            f"config.json has {key} = {value!r}; headrace runs {', '.join(allowed)} here."
        )


def listed_layer_types(config: Mapping[str, Any], num_layers: int) -> list[str] | None:
    """Whether each layer has a window, where the file lists it.

    Raises: ModelFileError, UnsupportedFormat.
    """
    listed = config.get("layer_types")
    if not listed:
        return None
    if not isinstance(listed, list) or len(listed) != num_layers:
        found = len(listed) if isinstance(listed, list) else repr(listed)[:80]
        raise ModelFileError(f"config.json lists {found} layer_types for {num_layers} layers.")
    unknown = [kind for kind in listed if kind not in ("full_attention", "sliding_attention")]
    if unknown:
        raise UnsupportedFormat(
            f"config.json has layer_types {sorted({str(kind)[:80] for kind in unknown})}; headrace "
            "runs full_attention and sliding_attention."
        )
    return [str(kind) for kind in listed]
