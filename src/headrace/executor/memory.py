"""The byte plan: what a model will take, made from the file's index before anything is loaded.

In: config, tensor index, limits. Out: Capacity with its breakdown, or OutOfMemory with the number
that would do. Units: bytes.
"""

from __future__ import annotations

from dataclasses import replace

from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError, OutOfMemory
from headrace.core.frozen import frozen
from headrace.core.units import format_bytes
from headrace.executor.load import ModelTensors, linear_shape, row_formats
from headrace.models.model_config import ModelConfig
from headrace.ops.protocol import KVCacheDtype, Ops
from headrace.weights.weight_reader import WeightReader

PROGRAM_BYTES = 160 * 2**20
"""Interpreter, libraries, tokenizer and templates of a serving process, measured."""

MAX_LOGIT_ROWS = 64
"""Logits are made at most this many rows at a time."""

DEFAULT_CONTEXT_SHARE = 2048
"""Tokens of KV cache that each of max_num_seqs gets by default."""

FREE_SHARE = 0.7
"""The default budget never takes more of the free memory than this."""


@frozen
class DraftNeed:
    """What a draft model takes beside its target: `block_bytes` for each block of the KV cache."""

    weights_bytes: int
    scratch_bytes: int
    block_bytes: int

    @property
    def fixed_bytes(self) -> int:
        return self.weights_bytes + self.scratch_bytes


NO_DRAFT = DraftNeed(0, 0, 0)


@frozen
class Capacity:
    """What fits. `max_model_len` is the model's, lowered to what the KV cache holds.

    `draft_bytes` are weights and scratch of a draft model; its keys and values are in `kv_bytes`.
    `adapter_bytes` is room for adapters, those of the settings and those loaded later. `kv_bound`
    says what bounds the KV cache, for people. Of a divided model all are those of one rank.
    """

    weights_bytes: int
    kv_bytes: int
    scratch_bytes: int
    program_bytes: int
    num_blocks: int
    block_size: int
    max_model_len: int
    kv_cache_dtype: KVCacheDtype = "bf16"
    draft_bytes: int = 0
    adapter_bytes: int = 0
    kv_bound: str = ""
    num_ranks: int = 1

    @property
    def total_bytes(self) -> int:
        model = self.weights_bytes + self.draft_bytes + self.adapter_bytes
        return model + self.kv_bytes + self.scratch_bytes + self.program_bytes

    @property
    def num_kv_tokens(self) -> int:
        return self.num_blocks * self.block_size

    def with_blocks(self, num_blocks: int) -> Capacity:
        """The same with fewer blocks: what every rank has room for."""
        return replace(
            self,
            num_blocks=num_blocks,
            kv_bytes=self.kv_bytes // self.num_blocks * num_blocks,
            max_model_len=min(self.max_model_len, (num_blocks - 1) * self.block_size),
        )

    def describe(self) -> str:
        """The breakdown as one line for people."""
        draft = f"draft model {format_bytes(self.draft_bytes)}, " if self.draft_bytes else ""
        has_room = self.adapter_bytes > 0
        adapters = f"adapters {format_bytes(self.adapter_bytes)}, " if has_room else ""
        bound = f": {self.kv_bound}" if self.kv_bound else ""
        each = f" on each of {self.num_ranks} ranks" if self.num_ranks > 1 else ""
        return (
            f"memory {format_bytes(self.total_bytes)}{each}: "
            f"weights {format_bytes(self.weights_bytes)}, "
            f"{draft}KV cache {format_bytes(self.kv_bytes)} ({self.num_kv_tokens} tokens of "
            f"{self.kv_cache_dtype} in {self.num_blocks} blocks of {self.block_size}{bound}), "
            f"{adapters}scratch {format_bytes(self.scratch_bytes)}, "
            f"program {format_bytes(self.program_bytes)}; context {self.max_model_len} tokens"
        )


def plan_capacity(
    config: ModelConfig,
    reader: WeightReader,
    ops: Ops,
    engine: EngineConfig,
    free_bytes: int,
    draft: DraftNeed = NO_DRAFT,
    adapter_bytes: int = 0,
) -> Capacity:
    """Split the budget into weights, adapters, scratch and KV blocks.

    Of a divided model: `config` is a rank's, and so is what comes out.
    Raises: OutOfMemory, ConfigError.
    """
    if engine.max_model_len is not None and engine.max_model_len > config.max_model_len:
        raise ConfigError(
            "engine.max_model_len",
            engine.max_model_len,
            f"1 to {config.max_model_len}, the longest this model was made for",
        )
    budget = engine.memory_bytes
    if budget is not None and budget > free_bytes:
        raise OutOfMemory(
            f"--memory gives {format_bytes(budget)}, and {format_bytes(free_bytes)} of this "
            "machine's memory are free. Give less, or nothing: the default fits what is free.",
            needed_bytes=budget,
            available_bytes=free_bytes,
        )
    block_size = engine.block_size
    kv_dtype = kv_cache_dtype(engine)
    block_bytes = ops.kv_bytes_per_block(config.attention, block_size, kv_dtype)
    block_bytes += draft.block_bytes
    wanted_len = engine.max_model_len or config.max_model_len
    weights = weights_bytes(config, reader, ops, wanted_len, engine.tensor_parallel_size)
    scratch = scratch_bytes(config, engine) + device_scratch_bytes(config, reader, ops, engine)
    fixed = weights + draft.fixed_bytes + scratch + PROGRAM_BYTES + adapter_bytes
    if budget is None:
        usual = max(wanted_len, engine.max_num_seqs * DEFAULT_CONTEXT_SHARE)
        usual_blocks = -(-usual // block_size) + 1
        num_blocks = min(usual_blocks, int(free_bytes * FREE_SHARE - fixed) // block_bytes)
        kv_bound = _describe_usual(engine, wanted_len)
        if num_blocks < usual_blocks:
            kv_bound = f"what {FREE_SHARE:.0%} of the free memory leaves"
        source = f"{format_bytes(free_bytes)} free"
    else:
        num_blocks = (budget - fixed) // block_bytes
        kv_bound = f"what {format_bytes(budget)} leave"
        source = f"a limit of {format_bytes(budget)}"
    min_len = engine.max_model_len or min(config.max_model_len, 4 * block_size)
    min_blocks = -(-min_len // block_size) + 1
    if num_blocks < min_blocks:
        needed = fixed + min_blocks * block_bytes
        needed = needed if budget is not None else int(needed / FREE_SHARE) + 1
        raise OutOfMemory(
            f"The model needs {format_bytes(needed)} ({format_bytes(weights)} weights, "
            f"{_describe_draft(draft)}{format_bytes(scratch)} scratch, "
            f"{format_bytes(PROGRAM_BYTES)} program, "
            f"{f'{format_bytes(adapter_bytes)} adapters, ' if adapter_bytes else ''}"
            f"{format_bytes(min_blocks * block_bytes)} KV cache for {min_len} tokens) and there is "
            f"{source}. Give it --memory {-(-needed // 2**20)}MiB or more, lower --max-model-len, "
            "or take a smaller model.",
            needed_bytes=needed,
            available_bytes=budget if budget is not None else free_bytes,
        )
    return Capacity(
        weights_bytes=weights,
        kv_bytes=num_blocks * block_bytes,
        scratch_bytes=scratch,
        program_bytes=PROGRAM_BYTES,
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=min(wanted_len, (num_blocks - 1) * block_size),
        kv_cache_dtype=kv_dtype,
        draft_bytes=draft.fixed_bytes,
        adapter_bytes=adapter_bytes,
        kv_bound=kv_bound,
        num_ranks=engine.tensor_parallel_size,
    )


def _describe_usual(engine: EngineConfig, wanted_len: int) -> str:
    """The size that is enough where nobody sets one."""
    num_seqs = engine.max_num_seqs
    is_context = wanted_len >= num_seqs * DEFAULT_CONTEXT_SHARE
    usual = (
        "one context" if is_context else f"{num_seqs} requests of {DEFAULT_CONTEXT_SHARE} tokens"
    )
    return f"{usual}, --memory SIZE gives more"


def _describe_draft(draft: DraftNeed) -> str:
    return f"{format_bytes(draft.fixed_bytes)} draft model, " if draft.fixed_bytes else ""


def kv_cache_dtype(engine: EngineConfig) -> KVCacheDtype:
    """How the engine stores keys and values; `auto` is bf16."""
    return "bf16" if engine.kv_cache_dtype == "auto" else engine.kv_cache_dtype


def weights_bytes(
    config: ModelConfig, reader: WeightReader, ops: Ops, max_positions: int, num_ranks: int = 1
) -> int:
    """Packed size of all tensors. An embedding stays in the mapped file; a tied head is packed.

    Of several ranks: one's part, and the embedding, which each has whole.
    """
    total = sum(ops.packed_bytes(reader.outline(name)) for name in reader.names())
    if num_ranks > 1:
        tensors = ModelTensors.open(reader, config)
        embed = ops.packed_bytes(reader.outline(tensors.table["embed"].name))
        divided = total - embed if tensors.has("head") else total
        whole_inner = max(row.num_columns for row in row_formats(tensors) if row.is_inner)
        inner = linear_shape(config, "down")[1]
        total = int(divided * max(1 / num_ranks, inner / whole_inner)) + embed
    rope = sum(
        params.rotary_size * 4 * max_positions for params in set(config.ropes)
    )  # cos and sin, fp32
    return total + rope


def scratch_bytes(
    config: ModelConfig, engine: EngineConfig, logit_rows: int = MAX_LOGIT_ROWS
) -> int:
    """Activations of the widest step, and logits with what is copied of them.

    One copy is for log-probabilities, the other for rows that are chosen or scored apart. Prompts
    that are scored and guesses want more rows than there are requests.
    """
    tokens = max(engine.max_num_batched_tokens, engine.max_num_seqs)
    return tokens * row_bytes(config) + logits_bytes(config, min(logit_rows, tokens))


def logits_bytes(config: ModelConfig, num_rows: int) -> int:
    """Logits and two copies."""
    return 3 * num_rows * config.vocab_size * 4


def row_bytes(config: ModelConfig) -> int:
    """Activations of one token in a step."""
    spec = config.attention[0]
    return 4 * (
        4 * config.hidden_size
        + 2 * spec.qkv_width
        + spec.num_heads * spec.head_size
        + 4 * config.intermediate_size
    )


def device_scratch_bytes(
    config: ModelConfig, reader: WeightReader, ops: Ops, engine: EngineConfig
) -> int:
    """What the device's products and replays take more; a head is multiplied by few rows."""
    outlines = (reader.outline(name) for name in reader.names())
    matrices = [
        tensor
        for tensor in outlines
        if len(tensor.shape) == 2 and tensor.shape[0] != config.vocab_size
    ]
    replayed_rows = 0 if engine.eager else engine.max_num_seqs
    logits = logits_bytes(config, min(replayed_rows, MAX_LOGIT_ROWS))
    return ops.extra_scratch_bytes(matrices, replayed_rows, row_bytes(config), logits)
