"""LoRA adapters: PEFT folders and GGUF files to pairs of matrices under our names.

In: a path and the shapes of the base. Out: an AdapterFile: for each linear that it changes, a
[r, in] and b [out, r], so that the base's sum x w^T becomes x w^T + (x a^T) b^T. Rows are cut and
ordered as those of the base are. Whatever would be left out is refused with its name.
Source: arXiv 2106.09685; llama.cpp, convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.quant.quant_tensor import QuantTensor
from headrace.weights.adapter_files import CONFIG_NAME, WEIGHTS_NAME, check_adapter_files
from headrace.weights.gguf import GgufReader
from headrace.weights.names import GGUF_WORDS, sources, take_source
from headrace.weights.peft_config import read_peft_config
from headrace.weights.safetensors import read_json, read_tensors
from headrace.weights.tensor_source import Kind, TensorSource

Float32 = NDArray[np.float32]
Shape = tuple[int, int]

MAX_RANK = 1024
_MAX_NAME_CHARACTERS = 512  # matching takes their square; the longest have some 100
_PEFT_NAME = re.compile(r"(?:.*\.)?(layers\.\d+\.[\w.]+?)\.lora_(A|B)(?:\.[\w-]+)?\.weight")
_GGUF_NAME = re.compile(r"(.+)\.weight\.lora_(a|b)")


@frozen
class AdaptedBase:
    """What an adapter must fit. `shapes` [out, in] of each part of a layer that may be changed."""

    architecture: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    hidden_size: int
    intermediate_size: int
    shapes: Mapping[str, Shape]


@frozen(eq=False)
class LoraPart:
    """Shapes: a [r, in], b [out, r]; the scale is in b. Parts cut from one tensor share their a."""

    a: Float32
    b: Float32


@frozen(eq=False)
class AdapterFile:
    """An adapter in memory. `parts` by our names, such as `layers.0.q`.

    `sha256` is that of all that was read; `base_name` is what the file calls its base, or "".
    """

    path: Path
    sha256: str
    base_name: str
    parts: Mapping[str, LoraPart]

    @property
    def rank(self) -> int:
        return max(int(part.a.shape[0]) for part in self.parts.values())


@dataclass(slots=True)
class _Pair:
    """The two tensors of a module of the file."""

    a: QuantTensor | None = None
    b: QuantTensor | None = None


def read_adapter(path: Path, base: AdaptedBase) -> AdapterFile:
    """Read a PEFT folder or a GGUF file.

    Raises: ModelFileError for what is damaged or does not fit the base, UnsupportedFormat for kinds
    of adapters that headrace does not run.
    """
    check_adapter_files(path)
    if path.is_dir():
        return _read_peft(path, base)
    return _read_gguf(path, base)


def _read_peft(path: Path, base: AdaptedBase) -> AdapterFile:
    weights = path / WEIGHTS_NAME
    config = read_peft_config(path, read_json(path, CONFIG_NAME))
    pairs = _pair_up(weights, read_tensors(weights), _PEFT_NAME)
    table = _modules(base, base.architecture, "safetensors")
    parts: dict[str, LoraPart] = {}
    for module, pair in pairs.items():
        rank = _rank(weights, module, pair)
        if config.rank is not None and rank != config.rank:
            raise ModelFileError(
                f"{weights}: the matrices of {module} have rank {rank}; adapter_config.json has "
                f"r = {config.rank} and no rank_pattern."
            )
        scale = config.scale(f"model.{module}", rank)
        parts |= _cut(weights, module, pair, table, base, scale)
    digest = sha256()
    for file in (path / CONFIG_NAME, weights):
        raw = file.read_bytes()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return AdapterFile(path, digest.hexdigest(), config.base_name, _checked(weights, parts))


def _read_gguf(path: Path, base: AdaptedBase) -> AdapterFile:
    with closing(GgufReader(path)) as reader:
        kind, method = reader.metadata.get("general.type"), reader.metadata.get("adapter.type")
        if kind != "adapter" or method != "lora":
            raise UnsupportedFormat(
                f"{path} is a GGUF file of general.type {kind!r} and adapter.type {method!r}; a "
                "LoRA adapter has 'adapter' and 'lora'."
            )
        if reader.metadata.get("adapter.alora.invocation_tokens"):
            raise UnsupportedFormat(f"{path} is an aLoRA, which headrace does not run.")
        architecture = GGUF_WORDS.get(base.architecture, base.architecture)
        if reader.architecture not in (architecture, base.architecture):
            raise ModelFileError(
                f"{path} was made for the architecture {reader.architecture!r}; the base is "
                f"{base.architecture!r}."
            )
        alpha = reader.metadata.get("adapter.lora.alpha", 0.0)
        if not isinstance(alpha, int | float):
            raise ModelFileError(f"{path} has adapter.lora.alpha = {alpha!r}; allowed: a number.")
        pairs = _pair_up(path, {name: reader.tensor(name) for name in reader.names()}, _GGUF_NAME)
        named = "mixtral" if base.architecture == "mixtral" else architecture
        table = _modules(base, named, "gguf")
        parts: dict[str, LoraPart] = {}
        for module, pair in pairs.items():
            # llama.cpp takes no alpha as a scale of 1.
            scale = alpha / _rank(path, module, pair) if alpha else 1.0
            parts |= _cut(path, module, pair, table, base, scale)
        base_name = reader.metadata.get("general.base_model.0.name") or ""
    digest = sha256(path.read_bytes()).hexdigest()
    return AdapterFile(path, digest, str(base_name), _checked(path, parts))


def _pair_up(
    path: Path, tensors: Mapping[str, QuantTensor], names: re.Pattern[str]
) -> dict[str, _Pair]:
    """Pairs by module, in the file's order. Raises: UnsupportedFormat, ModelFileError."""
    pairs: dict[str, _Pair] = {}
    for name, tensor in tensors.items():
        found = names.fullmatch(name) if len(name) <= _MAX_NAME_CHARACTERS else None
        if found is None:
            shown = name[:_MAX_NAME_CHARACTERS]
            raise UnsupportedFormat(f"{path}: the tensor {shown!r} is none of a plain LoRA.")
        if len(tensor.shape) != 2:
            raise UnsupportedFormat(f"{path}: {name!r} has shape {list(tensor.shape)}, no matrix.")
        pair = pairs.setdefault(found[1], _Pair())
        if found[2] in "aA":
            pair.a = tensor
        else:
            pair.b = tensor
    if not pairs:
        raise ModelFileError(f"{path} has no tensors.")
    return pairs


def _modules(
    base: AdaptedBase, architecture: str, kind: Kind
) -> dict[str, list[tuple[str, TensorSource]]]:
    """Names of modules as the file has them -> our parts that lie in them."""
    wanted = {f"layers.{layer}.{part}" for layer in range(base.num_layers) for part in base.shapes}
    modules: dict[str, list[tuple[str, TensorSource]]] = {}
    table = sources(architecture, kind, base.num_layers, _sizes(base, architecture, kind))
    for name, source in table.items():
        if name in wanted:
            module = source.name.removesuffix(".weight")
            if kind == "safetensors":
                module = module[module.index("layers.") :]
            modules.setdefault(module, []).append((name, source))
    return modules


def _sizes(base: AdaptedBase, architecture: str, kind: Kind) -> Mapping[str, object]:
    """The base's numbers as metadata of a file has them; names of experts are not asked for."""
    if kind == "safetensors":
        return {
            "num_attention_heads": base.num_heads,
            "num_key_value_heads": base.num_kv_heads,
            "head_dim": base.head_size,
            "hidden_size": base.hidden_size,
            "intermediate_size": base.intermediate_size,
            "num_local_experts": 1,
        }
    sizes = {
        "attention.head_count": base.num_heads,
        "attention.head_count_kv": base.num_kv_heads,
        "attention.key_length": base.head_size,
        "embedding_length": base.hidden_size,
        "feed_forward_length": base.intermediate_size,
        "expert_count": 1,
    }
    prefixed: dict[str, object] = {f"{architecture}.{key}": size for key, size in sizes.items()}
    return prefixed | {"general.architecture": architecture}


def _rank(path: Path, module: str, pair: _Pair) -> int:
    """Raises: ModelFileError where half of a pair is missing or the halves do not fit."""
    if pair.a is None or pair.b is None:
        raise ModelFileError(f"{path}: {module} has one matrix of its two.")
    rank = pair.a.shape[0]
    if pair.b.shape[1] != rank or not 1 <= rank <= MAX_RANK:
        raise ModelFileError(
            f"{path}: the matrices of {module} have shapes {list(pair.a.shape)} and "
            f"{list(pair.b.shape)}; allowed: [r, in] and [out, r], r from 1 to {MAX_RANK}."
        )
    return rank


def _cut(
    path: Path,
    module: str,
    pair: _Pair,
    modules: Mapping[str, list[tuple[str, TensorSource]]],
    base: AdaptedBase,
    scale: float,
) -> dict[str, LoraPart]:
    """Our parts of a module. Raises: UnsupportedFormat, ModelFileError."""
    if module not in modules or pair.a is None or pair.b is None:
        allowed = sorted({name.split(".", 2)[2] for name in modules if name.count(".") > 1})
        raise UnsupportedFormat(
            f"{path}: it changes {module}, which is not one of the {base.num_layers} layers' "
            f"modules that headrace adapts in this base: {', '.join(allowed)}."
        )
    a = pair.a.dequantize()
    parts: dict[str, LoraPart] = {}
    found = modules[module]
    num_rows = sum(base.shapes[name.rpartition(".")[2]][0] for name, _ in found)
    for name, source in found:
        width = base.shapes[name.rpartition(".")[2]][1]
        if pair.b.shape[0] != num_rows or a.shape[1] != width:
            raise ModelFileError(
                f"{path}: {module} adds a matrix of shape {[pair.b.shape[0], a.shape[1]]}; the "
                f"base has {[num_rows, width]} there, so it was made for another base."
            )
        b = take_source(path, pair.b, replace(source, name=module)).dequantize()
        parts[name] = LoraPart(a, b * np.float32(scale))
    return parts


def _checked(path: Path, parts: dict[str, LoraPart]) -> dict[str, LoraPart]:
    """Raises: ModelFileError for numbers that are none."""
    for name, part in parts.items():
        if not (np.isfinite(part.a).all() and np.isfinite(part.b).all()):
            raise ModelFileError(f"{path}: the matrices of {name} hold NaN or infinity.")
    return parts
