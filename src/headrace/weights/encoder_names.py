"""Which tensor of a Hugging Face folder is which of an encoder's.

In: an open folder and a layer count. Out: our name -> the file's. Our names: `embed`, `positions`,
`token_types`, `norm`, `layers.{i}.` with q, k, v, o, up, down, attn_norm and mlp_norm, `pooler`,
`classifier`; each but the tables has `.weight` and `.bias`. Knows nothing of shapes or packing.
"""

from __future__ import annotations

from collections.abc import Mapping

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.weights.names import MAX_LAYERS
from headrace.weights.weight_reader import WeightReader

_TABLES = {
    "embed": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "token_types": "embeddings.token_type_embeddings.weight",
}
_TOP = {"norm": "embeddings.LayerNorm", "pooler": "pooler.dense"}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "attn_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}
# What a vector does not need: counted positions, the pooler, heads of the training.
_UNUSED = ("embeddings.position_ids", "pooler.", "cls.")


def encoder_names(reader: WeightReader, num_layers: int, has_classifier: bool) -> dict[str, str]:
    """Map our names to the file's.

    Raises: UnsupportedFormat where the file has tensors that nobody would read; ModelFileError.
    """
    if not 1 <= num_layers <= MAX_LAYERS:
        raise ModelFileError(f"the model claims {num_layers} layers; allowed: 1 to {MAX_LAYERS}.")
    present = frozenset(reader.names())
    prefix = "bert." if any(name.startswith("bert.") for name in present) else ""
    found = {ours: prefix + theirs for ours, theirs in _TABLES.items()}
    modules = {ours: prefix + theirs for ours, theirs in _TOP.items()}
    for layer in range(num_layers):
        for ours, theirs in _LAYER.items():
            modules[f"layers.{layer}.{ours}"] = f"{prefix}encoder.layer.{layer}.{theirs}"
    if has_classifier:
        modules["classifier"] = "classifier"
    else:
        del modules["pooler"]
    for ours, theirs in modules.items():
        found[f"{ours}.weight"] = _spelled(present, f"{theirs}.weight", f"{theirs}.gamma")
        found[f"{ours}.bias"] = _spelled(present, f"{theirs}.bias", f"{theirs}.beta")
    _refuse_unread(reader, found, prefix)
    return found


def _spelled(present: frozenset[str], name: str, old_name: str) -> str:
    """Checkpoints of TensorFlow's time name a norm's weights gamma and beta."""
    return old_name if old_name in present else name


def _refuse_unread(reader: WeightReader, found: Mapping[str, str], prefix: str) -> None:
    read = frozenset(found.values())
    for name in reader.names():
        if name not in read and not name.removeprefix(prefix).startswith(_UNUSED):
            raise UnsupportedFormat(
                f"{reader.path} has the tensor {name!r}, which an encoder of BERT's form does not "
                "use; running without it would give wrong answers."
            )
