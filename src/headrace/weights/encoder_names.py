"""Which tensor of a Hugging Face folder is which of an encoder's.

In: an open folder and a layer count. Out: our name -> the file's. Our names: `embed`, `positions`,
`token_types` where there are some, `norm`, `layers.{i}.` with q, k, v, o, up, down, attn_norm and
mlp_norm, `pooler`, `classifier`; each but the tables has `.weight` and `.bias`. Knows nothing of
shapes or packing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.weights.names import MAX_LAYERS
from headrace.weights.weight_reader import WeightReader


@frozen
class _Names:
    """What a family calls its tensors. `prefix` is before all but the head's, or before none.

    `has_types`: a table of token types. `pooler`, `classifier`: the linears of a head. `unused`:
    what a vector does not need: counted positions, the pooler, heads of the training.
    """

    prefix: str
    layers: str
    layer: Mapping[str, str]
    pooler: str
    classifier: str
    unused: tuple[str, ...]
    has_types: bool = True


_BERT = _Names(
    prefix="bert.",
    layers="encoder.layer",
    layer={
        "q": "attention.self.query",
        "k": "attention.self.key",
        "v": "attention.self.value",
        "o": "attention.output.dense",
        "attn_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
    pooler="{prefix}pooler.dense",
    classifier="classifier",
    unused=("embeddings.position_ids", "pooler.", "cls."),
)
_ROBERTA = replace(
    _BERT,
    prefix="roberta.",
    pooler="classifier.dense",
    classifier="classifier.out_proj",
    unused=("embeddings.position_ids", "pooler.", "lm_head."),
)
_DISTILBERT = _Names(
    prefix="distilbert.",
    layers="transformer.layer",
    layer={
        "q": "attention.q_lin",
        "k": "attention.k_lin",
        "v": "attention.v_lin",
        "o": "attention.out_lin",
        "attn_norm": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "mlp_norm": "output_layer_norm",
    },
    pooler="pre_classifier",
    classifier="classifier",
    unused=("embeddings.position_ids", "vocab_"),
    has_types=False,
)
_FAMILIES: Mapping[str, _Names] = {
    "bert": _BERT,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}


def encoder_names(reader: WeightReader, num_layers: int, has_classifier: bool) -> dict[str, str]:
    """Map our names to the file's.

    Raises: UnsupportedFormat where the file has tensors that nobody would read; ModelFileError.
    """
    if not 1 <= num_layers <= MAX_LAYERS:
        raise ModelFileError(f"the model claims {num_layers} layers; allowed: 1 to {MAX_LAYERS}.")
    family = _FAMILIES[reader.architecture]
    present = frozenset(reader.names())
    prefix = family.prefix if any(name.startswith(family.prefix) for name in present) else ""
    found = {
        "embed": f"{prefix}embeddings.word_embeddings.weight",
        "positions": f"{prefix}embeddings.position_embeddings.weight",
    }
    if family.has_types:
        found["token_types"] = f"{prefix}embeddings.token_type_embeddings.weight"
    modules = {"norm": f"{prefix}embeddings.LayerNorm"}
    for layer in range(num_layers):
        for ours, theirs in family.layer.items():
            modules[f"layers.{layer}.{ours}"] = f"{prefix}{family.layers}.{layer}.{theirs}"
    if has_classifier:
        modules["pooler"] = family.pooler.format(prefix=prefix)
        modules["classifier"] = family.classifier
    for ours, theirs in modules.items():
        found[f"{ours}.weight"] = _spelled(present, f"{theirs}.weight", f"{theirs}.gamma")
        found[f"{ours}.bias"] = _spelled(present, f"{theirs}.bias", f"{theirs}.beta")
    _refuse_unread(reader, found, prefix, family.unused)
    return found


def _spelled(present: frozenset[str], name: str, old_name: str) -> str:
    """Checkpoints of TensorFlow's time name a norm's weights gamma and beta."""
    return old_name if old_name in present else name


def _refuse_unread(
    reader: WeightReader, found: Mapping[str, str], prefix: str, unused: tuple[str, ...]
) -> None:
    read = frozenset(found.values())
    for name in reader.names():
        if name not in read and not name.removeprefix(prefix).startswith(unused):
            raise UnsupportedFormat(
                f"{reader.path} has the tensor {name!r}, which an encoder of BERT's form does not "
                "use; running without it would give wrong answers."
            )
