"""From a model file and settings to everything a running engine is made of.

In: a local model, a resolved EngineConfig. Out: LoadedModel with weights packed, memory planned and
KV cache allocated. Packing, which is C++, runs beside what Python loads; no thread is left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.core.config import EngineConfig
from headrace.core.errors import OutOfMemory
from headrace.core.units import format_bytes
from headrace.executor.load import ModelTensors, linear_shape, load_weights
from headrace.executor.memory import Capacity, kv_cache_dtype, plan_capacity
from headrace.executor.model_runner import ModelRunner
from headrace.executor.uneven_keys import mark_uneven_keys
from headrace.models.llama import Llama
from headrace.models.model_config import ModelConfig
from headrace.models.registry import model_class
from headrace.ops.protocol import KVCache, Ops
from headrace.ops.table import make_ops
from headrace.sampling.logits_rule import LogitsRules
from headrace.text.chat_template import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader
from headrace.weights.weight_reader import WeightReader, open_weights

Progress = Callable[[str, float], None]
"""Called with what is being done and the share done, 0 to 1."""


@dataclass(frozen=True, slots=True)
class WorkPerToken:
    """What a step moves and computes. Units: bytes, multiply-adds.

    `stream_bytes` are read once per decode step, in the file's format; `body_weights` are used for
    every token, `head_weights` for rows whose logits are wanted.
    """

    stream_bytes: int
    body_weights: int
    head_weights: int


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run."""

    config: ModelConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    runner: ModelRunner
    capacity: Capacity
    work: WorkPerToken
    ops: Ops
    reader: WeightReader
    rules: LogitsRules


def load_model(
    path: Path,
    engine: EngineConfig,
    free_bytes: int,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    is_brief: bool = False,
) -> LoadedModel:
    """Read, plan, pack. `cache_dir` keeps built tokenizers between starts.

    `is_brief` is for a few short prompts: the tokenizer then loads no more than they need.

    Raises: ModelFileError, UnsupportedFormat, MissingTensor, OutOfMemory, ConfigError.
    """
    report = progress or _ignore
    report("reading", 0.0)
    reader = open_weights(path)
    model = model_class(reader.architecture)
    config = read_config(model, reader)
    if kv_cache_dtype(engine) == "int8":
        config = mark_uneven_keys(config, reader)
    ops = make_ops(engine.device, isa=engine.isa, num_threads=engine.num_threads)
    capacity = plan_capacity(config, reader, ops, engine, free_bytes)
    with ThreadPoolExecutor(1, "headrace-load") as beside:
        text = beside.submit(load_text, reader, cache_dir, is_brief)
        try:
            weights = load_weights(
                model,
                config,
                reader,
                ops,
                capacity.max_model_len,
                progress=lambda done, layers: report("loading", done / (layers + 1)),
            )
        finally:
            # Where both fail, the text's error is told, whichever came first.
            tokenizer, template = text.result()
    cache = allocate_cache(config, ops, capacity)
    rules = LogitsRules(tokenizer, config.vocab_size)
    report("loading", 1.0)
    return LoadedModel(
        config=config,
        tokenizer=tokenizer,
        chat_template=template,
        runner=ModelRunner(model(ops, config, weights), cache, ops, engine.eager, rules),
        capacity=capacity,
        work=work_per_token(model, config, reader),
        ops=ops,
        reader=reader,
        rules=rules,
    )


def allocate_cache(config: ModelConfig, ops: Ops, capacity: Capacity) -> KVCache:
    """The planned KV cache. Raises: OutOfMemory where the system does not give it."""
    try:
        return ops.allocate_kv(
            config.attention, capacity.num_blocks, capacity.block_size, capacity.kv_cache_dtype
        )
    except MemoryError:
        raise OutOfMemory(
            f"The system did not give {format_bytes(capacity.kv_bytes)} for the KV cache, although "
            "as much seemed free. A limit on this process (ulimit -v) may be lower: give a lower "
            "--memory, or raise the limit.",
            needed_bytes=capacity.total_bytes,
            available_bytes=0,
        ) from None


def read_config(model: type[Llama], reader: WeightReader) -> ModelConfig:
    """The architecture's numbers, from whichever kind of file. Raises: ModelFileError."""
    metadata: Mapping[str, Any] = reader.metadata
    if reader.kind == "gguf":
        return model.config_from_gguf(metadata)
    return model.config_from_huggingface(metadata)


def load_text(
    reader: WeightReader, cache_dir: Path | None, is_brief: bool
) -> tuple[Tokenizer, ChatTemplate | None]:
    """Tokenizer and chat template. Raises: ModelFileError, UnsupportedFormat."""
    tokenizer = load_tokenizer(reader, cache_dir, is_brief)
    return tokenizer, load_template(tokenizer)


def load_tokenizer(
    reader: WeightReader, cache_dir: Path | None, is_brief: bool = False
) -> Tokenizer:
    """The tokenizer that comes with the weights.

    The metadata's digest is its key in the cache: a file that is moved or copied finds what was
    built, one that is changed or replaced never does, whatever its size and time. A folder's
    tokenizer.json is already what the cache would hold.
    Raises: ModelFileError, UnsupportedFormat.
    """
    if isinstance(reader, GgufReader):
        key = None if cache_dir is None else reader.metadata_digest()
        return Tokenizer.from_gguf(reader.metadata, cache_dir, key, is_brief)
    return Tokenizer.from_huggingface(reader.path)


def load_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The model's chat template, None for a model without one."""
    if tokenizer.chat_template is None:
        return None
    return ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)


def work_per_token(model: type[Llama], config: ModelConfig, reader: WeightReader) -> WorkPerToken:
    """Bytes and multiply-adds of a decode step, from the file's index."""
    tensors = ModelTensors.open(reader, config)
    stream_bytes = body_weights = 0
    for layer in range(config.num_layers):
        for linear in model.layer_spec(config).linears:
            for name in linear.parts:
                stream_bytes += tensors.get(f"layers.{layer}.{name}").nbytes
                rows, columns = linear_shape(config, name)
                body_weights += rows * columns
    head = tensors.get("head" if tensors.has("head") else "embed")
    return WorkPerToken(
        stream_bytes + head.nbytes, body_weights, config.vocab_size * config.hidden_size
    )


def _ignore(what: str, share: float) -> None:
    """Progress nobody watches."""
