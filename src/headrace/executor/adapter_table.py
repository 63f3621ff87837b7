"""AdapterTable: the LoRA adapters that are loaded over a model, by the digest of their files.

In: paths. Out: AdapterFacts; for a step, which of its rows belong to which adapter. Owns the packed
adapters and how much memory they take of what was planned for them. Knows nothing of names,
requests that wait, or text.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headrace.core.adapters import AdapterFacts
from headrace.core.engine_config import EngineConfig, parse_adapters
from headrace.core.errors import HeadraceError, OutOfMemory, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.core.step import ScheduledRequest
from headrace.core.units import format_bytes
from headrace.executor.load import linear_shape
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.weight_spec import LinearSpec
from headrace.ops.protocol import AdaptedLinear, Ops, PackedAdapter
from headrace.ops.step_inputs import AdapterRows, Int32, StepInputs
from headrace.quant.quant_tensor import QuantTensor

if TYPE_CHECKING:
    from headrace.weights.adapters import AdapterFile, LoraPart

# Loaded with the first adapter, with what reads folders.
_READING = "headrace.weights.adapters"
PANEL = 16
"""Columns that packed matrices are padded to."""

Float32 = NDArray[np.float32]


@frozen
class _Loaded:
    facts: AdapterFacts
    packed: PackedAdapter


class AdapterTable:
    """The adapters of one model. Belongs to the thread that runs its steps."""

    def __init__(self, model: Llama, ops: Ops, architecture: str, room_bytes: int) -> None:
        """`room_bytes` are what all adapters may take together."""
        self._model, self._ops, self._room_bytes = model, ops, room_bytes
        self._architecture = architecture
        self._loaded: dict[str, _Loaded] = {}

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._loaded

    @property
    def num_bytes(self) -> int:
        return sum(each.facts.num_bytes for each in self._loaded.values())

    def load(self, path: Path) -> AdapterFacts:
        """Read and pack an adapter; one that is loaded already stays as it is.

        Raises: UnsupportedFormat, ModelFileError, OutOfMemory.
        """
        if not self._ops.has_adapters:
            raise UnsupportedFormat(
                f"adapters do not run on {self._ops.name}. Give engine.device = cpu, or merge the "
                "adapter into its base."
            )
        file = read_fitting(path, type(self._model), self._model.config, self._architecture)
        known = self._loaded.get(file.sha256)
        if known is not None:
            return known.facts
        num_bytes = adapter_bytes(file, type(self._model), self._model.config)
        if self.num_bytes + num_bytes > self._room_bytes:
            raise OutOfMemory(
                f"The adapter {path.name} takes {format_bytes(num_bytes)}; adapters may take "
                f"{format_bytes(self._room_bytes)} together and have "
                f"{format_bytes(self.num_bytes)}. Unload one, or start with a larger "
                "engine.adapter_memory_bytes (--adapter-memory).",
                needed_bytes=num_bytes,
                available_bytes=self._room_bytes - self.num_bytes,
            )
        packed = self._ops.pack_adapter(list(self._linears(file)))
        self._ops.finish_packing()
        facts = AdapterFacts(file.sha256, file.rank, num_bytes, file.base_name)
        self._loaded[file.sha256] = _Loaded(facts, packed)
        return facts

    def unload(self, sha256: str) -> None:
        """Let go of an adapter that no request runs with. One that is unknown is fine."""
        self._loaded.pop(sha256, None)

    def rows(
        self,
        scheduled: Sequence[ScheduledRequest],
        digests: Sequence[str],
        step: StepInputs,
    ) -> tuple[AdapterRows, ...]:
        """A step's rows by adapter, in the order in which adapters come; `digests` by request.

        Raises: KeyError for an adapter that is not loaded.
        """
        if not any(digests):
            return ()
        lengths = [request.num_logit_rows for request in scheduled]
        token_start, logit_start = step.query_start, np.concatenate([[0], np.cumsum(lengths)])
        found = []
        for sha256 in dict.fromkeys(digest for digest in digests if digest):
            places = [index for index, digest in enumerate(digests) if digest == sha256]
            found.append(
                AdapterRows(
                    self._loaded[sha256].packed,
                    _rows(token_start, places),
                    _rows(logit_start, places),
                )
            )
        return tuple(found)

    def _linears(self, file: AdapterFile) -> list[AdaptedLinear]:
        """The adapter's parts, fused as the base's are."""
        config = self._model.config
        specs = type(self._model).layer_spec(config).linears
        linears = []
        for index, layer in enumerate(self._model.weights.layers):
            for spec in specs:
                fused = fuse(spec, file.parts, f"layers.{index}.", config)
                if fused is not None:
                    a, b_parts = fused
                    linears.append(
                        AdaptedLinear(
                            getattr(layer, spec.field),
                            QuantTensor.from_array(a),
                            tuple(QuantTensor.from_array(part) for part in b_parts),
                            spec.interleave,
                        )
                    )
        return linears


def read_fitting(
    path: Path, model: type[Llama], config: ModelConfig, architecture: str
) -> AdapterFile:
    """Read an adapter of a model. Experts and routers are not adapted.

    Raises: UnsupportedFormat, ModelFileError.
    """
    adapters = importlib.import_module(_READING)
    spec = config.attention[0]
    parts = [name for linear in model.layer_spec(config).linears for name in linear.parts]
    base = adapters.AdaptedBase(
        architecture=architecture,
        num_layers=config.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_size=spec.head_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        shapes={name: linear_shape(config, name) for name in parts},
    )
    file: AdapterFile = adapters.read_adapter(path, base)
    return file


def fuse(
    spec: LinearSpec, parts: Mapping[str, LoraPart], prefix: str, config: ModelConfig
) -> tuple[Float32, list[Float32]] | None:
    """One pair for a fused linear: the a of all parts stacked, each b in its own columns.

    Parts that share an a share its columns. None where no part is adapted.
    Shapes: -> a [r, in], b of every part [out_i, r].
    """
    found = {name: parts[prefix + name] for name in spec.parts if prefix + name in parts}
    if not found:
        return None
    starts: dict[int, int] = {}
    stacked: list[Float32] = []
    width = 0
    for part in found.values():
        if id(part.a) not in starts:
            starts[id(part.a)] = width
            stacked.append(part.a)
            width += part.a.shape[0]
    b_parts = []
    for name in spec.parts:
        b = np.zeros((linear_shape(config, name)[0], width), np.float32)
        if name in found:
            start = starts[id(found[name].a)]
            b[:, start : start + found[name].b.shape[1]] = found[name].b
        b_parts.append(b)
    return np.concatenate(stacked), b_parts


def adapter_bytes(file: AdapterFile, model: type[Llama], config: ModelConfig) -> int:
    """What an adapter takes once packed, in float32."""
    total = 0
    for layer in range(config.num_layers):
        for spec in model.layer_spec(config).linears:
            names = [f"layers.{layer}.{name}" for name in spec.parts]
            shared = {id(file.parts[n].a): file.parts[n].a for n in names if n in file.parts}
            rank = sum(a.shape[0] for a in shared.values())
            if rank:
                width = linear_shape(config, spec.parts[0])[1]
                out = sum(linear_shape(config, name)[0] for name in spec.parts)
                total += 4 * (_padded(rank) * width + _padded(out) * rank)
    return total


def adapter_room(
    engine: EngineConfig,
    model: type[Llama],
    config: ModelConfig,
    architecture: str,
    ops: Ops,
    is_first: bool,
) -> int:
    """Bytes for adapters: what those of the settings take, and room for others.

    Raises: UnsupportedFormat where adapters do not run; what is wrong with one, if it `is_first`.
    """
    paths = list(parse_adapters(engine.adapters).values())
    if paths and not ops.has_adapters:
        raise UnsupportedFormat(
            f"engine.adapters names adapters, which do not run on {ops.name}. Give engine.device = "
            "cpu, or merge them into the base."
        )
    files = {}
    for path in paths:
        try:
            file = read_fitting(path, model, config, architecture)
            files[file.sha256] = file
        except HeadraceError:
            # Later one that was unloaded may be gone; whoever loads others says what is wrong.
            if is_first:
                raise
    wanted = sum(adapter_bytes(file, model, config) for file in files.values())
    return wanted + (engine.adapter_memory_bytes or 0)


def _padded(size: int) -> int:
    return -(-size // PANEL) * PANEL


def _rows(start: NDArray[np.integer], places: Sequence[int]) -> Int32:
    """Rows of some requests, laid end to end. Shapes: start [R+1]."""
    spans = [np.arange(start[place], start[place + 1], dtype=np.int32) for place in places]
    return np.ascontiguousarray(np.concatenate(spans), dtype=np.int32)
