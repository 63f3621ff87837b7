"""ModelConfig: the numbers of an architecture, read from GGUF metadata or a Hugging Face config.

In: a mapping as the file gives it. Out: one frozen record, the same for both kinds of file.
Knows nothing of tensors or devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.ops.protocol import AttentionSpec, RopeParams, Routing

T = TypeVar("T")

SILU = ("silu", "swish")


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Mixture:
    """The feed-forward sizes of experts; `shared_intermediate_size` 0 is no shared expert."""

    routing: Routing
    intermediate_size: int
    shared_intermediate_size: int = 0


@dataclass(frozen=True, slots=True)
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
        return float(cast(float, self._value(key, default)))

    def integer(self, key: str, default: int | None = None) -> int:
        return int(cast(int, self._value(key, default)))

    def optional(self, key: str) -> Any:
        return self.metadata.get(f"{self.prefix}.{key}")

    def vocab_size(self) -> int:
        key = "tokenizer.ggml.tokens"
        if key not in self.metadata:
            return self.integer("vocab_size")
        if isinstance(self.metadata, CountsItems):
            return self.metadata.count(key)
        return len(cast(list[str], self.metadata[key]))

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
    value_size = fields.integer("attention.value_length", head_size)
    if value_size != head_size:
        raise UnsupportedFormat(
            f"The model has keys of {head_size} and values of {value_size} per head; headrace runs "
            "models where they are equal."
        )
    return AttentionSpec(num_heads, num_kv_heads, head_size, scale=head_size**-0.5)


def huggingface_attention(config: Mapping[str, Any]) -> AttentionSpec:
    """The attention constants of a Hugging Face config."""
    num_heads = required(config, "num_attention_heads", int)
    num_kv_heads = int(config.get("num_key_value_heads") or num_heads)
    check_divisible(num_heads, num_kv_heads)
    head_size = int(config.get("head_dim") or required(config, "hidden_size", int) // num_heads)
    return AttentionSpec(num_heads, num_kv_heads, head_size, scale=head_size**-0.5)


def check_activation(config: Mapping[str, Any], key: str, allowed: tuple[str, ...]) -> None:
    """Raises: UnsupportedFormat for a feed-forward activation that the class does not compute."""
    value = config.get(key)
    if value is not None and value not in allowed:
        raise UnsupportedFormat(
            f"config.json has {key} = {value!r}; headrace runs {', '.join(allowed)} here."
        )
