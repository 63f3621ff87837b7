"""How the engine computes and what it may use, as settings.

In: values of the right type. Out: EngineConfig, checked on construction; `None` means "derive it",
which `config.resolve` does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, get_args

from headrace.core.config_checks import (
    check_boolean,
    check_bytes,
    check_choice,
    check_integer,
    check_number,
)
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

Device = Literal["auto", "cpu", "cuda", "reference"]
Isa = Literal["generic", "avx2", "avx512", "avx512bf16", "amx"]
KVCacheDtype = Literal["auto", "bf16", "int8", "fp8"]
Quantization = Literal["none", "fp8"]
EncoderDtype = Literal["auto", "f32", "bf16", "q8_0"]
CanaryMode = Literal["warn", "refuse", "off"]
Speculative = Literal["off", "auto", "prompt-lookup", "draft-model", "both"]
DraftAcceptance = Literal["same-noise", "rejection"]
QueuePolicy = Literal["fair", "fcfs", "priority"]

MAX_RANKS = 64
MIN_MEMORY_BYTES = 64 * 1024**2
MAX_PAST_TOKENS = 2**22
MAX_CONTEXT_TOKENS = 2**24
"""More than any model has."""
DEFAULT_ADAPTER_MEMORY_BYTES = 256 * 1024**2
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")


@frozen(kw_only=True)
class EngineConfig:
    """How the engine computes and what it may use.

    Fields:
        device: `cpu` is the C++ extension, `cuda` an NVIDIA GPU through the extra `cuda`,
            `reference` numpy; `auto` is `cpu`, or `reference` without the extension.
        tensor_parallel_size: GPUs that a model is divided over, a process for each; every limit of
            memory is then one GPU's. Its heads and KV heads have to divide evenly.
        isa: highest instruction set that kernels may use; None is the best of this CPU.
        num_threads: threads of the kernels; None is one per physical core this process may use.
        memory_bytes: weights, KV cache and scratch together; None is a share of what is free.
        kv_cache_dtype: how keys and values are stored: `bf16`, or `int8` with a scale per token and
            KV head, which holds 1.7 to 1.9 times the tokens in the same memory; `fp8`, floats of 8
            bits (e4m3) with such a scale, as many tokens, not on device cpu; `auto` is bf16.
        quantization: how weights are rounded when a folder of float weights is loaded: `none`, or
            `fp8`, the matrices of layers to floats of 8 bits (e4m3) with a scale per row, not on
            device cpu. Folders that are in float8 need no setting.
        encoder_dtype: in what the matrices of an encoder are kept and multiplied: `f32`; `bf16`,
            which is several times faster where the CPU has AMX and moves a vector's cosine by less
            than 1e-4; or `q8_0`, integers of 8 bits in groups of 32, which is faster than f32 and
            moves that of MiniLM by less than 1e-3. `auto` is bf16 with AMX and f32 elsewhere.
        block_size: tokens in a block of the KV cache.
        max_model_len: longest prompt plus answer in tokens; None is the model's, bounded by memory.
        max_num_seqs: requests in one step.
        max_num_batched_tokens: tokens in one step; longer prompts are computed in chunks.
        max_mixed_prompt_tokens: of prompts, in a step that goes on with answers too: less is less
            time between the tokens of an answer; None is no bound of its own.
        max_mixed_background_tokens: of batches, in a step while anyone else is served; 0 lets
            batches wait for an idle engine.
        max_waiting_requests: requests that may queue before new ones are refused.
        enable_prefix_caching: reuse the KV blocks of equal prompt beginnings.
        eager: call a step's ops one by one and do not replay their record: slower, same bits, for
            debugging.
        policy: order of the queue: `fair` goes by priority, shares tokens among the tenants of
            each and is first come first served within one; `fcfs` over all; `priority` by the
            priority alone.
        speculative: guess tokens and compute several in one step, which changes no answer:
            `prompt-lookup` takes guesses from what the text has had before, `draft-model` from
            draft_model, `both` from the model where the text has none; `auto` is both where there
            is a draft_model; `off` never guesses. A request's `prediction` is looked up in all
            others.
        draft_model: name or path of a small model with the same vocabulary, which guesses what the
            large one will say. Loaded beside it, within the same memory.
        lookup_past_tokens: tokens of answers that have ended, of all tenants together, to look
            guesses up in too: each request in those of its own tenant, and of its own cache salt.
            Some 200 bytes of memory each, beside memory_bytes; 0 keeps none.
        draft_acceptance: when a draft model's guess of a drawn token is kept: `same-noise` where
            the large model draws the same token with the same noise, so that no answer changes;
            `rejection` as often as both models' distributions allow, which is more often: answers
            of the same distribution, but others each time. Greedy requests and those that give a
            seed always have `same-noise`.
        chat_template: file with a Jinja template that takes the place of the model's own; None is
            the model's.
        adapters: LoRA adapters to load with the model, `NAME=PATH` each: a PEFT folder or a GGUF
            file; NAME is what requests give as their model.
        adapter_memory_bytes: of memory_bytes, room for adapters that are loaded later than those
            of `adapters`; None is none, or 256 MiB where a server may load some.
        canary: what happens when a model says other things of a short text than its file stores,
            where `headrace quantize` has stored some: `warn` logs it, `refuse` does not load it,
            `off` does not look.
        stall_timeout_s: requests run, no step ends and the engine uses no processor: a server ends
            the engine process after that and starts it again. Long steps may be longer.
        max_restarts: restarts of the engine process in a row, each within a minute of the one
            before, after which a server gives the engine up.
    """

    device: Device = "auto"
    tensor_parallel_size: int = 1
    isa: Isa | None = None
    num_threads: int | None = None
    memory_bytes: int | None = None
    kv_cache_dtype: KVCacheDtype = "auto"
    quantization: Quantization = "none"
    encoder_dtype: EncoderDtype = "auto"
    block_size: int = 32
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_mixed_prompt_tokens: int | None = 128
    max_mixed_background_tokens: int = 1
    max_waiting_requests: int = 1024
    enable_prefix_caching: bool = True
    eager: bool = False
    policy: QueuePolicy = "fair"
    speculative: Speculative = "auto"
    draft_model: str | None = None
    lookup_past_tokens: int = 0
    draft_acceptance: DraftAcceptance = "same-noise"
    chat_template: str | None = None
    adapters: tuple[str, ...] = ()
    adapter_memory_bytes: int | None = None
    canary: CanaryMode = "warn"
    stall_timeout_s: float = 5.0
    max_restarts: int = 5

    def __post_init__(self) -> None:
        check_choice("engine.device", self.device, get_args(Device))
        check_integer("engine.tensor_parallel_size", self.tensor_parallel_size, 1, MAX_RANKS)
        check_choice("engine.isa", self.isa, (None, *get_args(Isa)))
        check_integer("engine.num_threads", self.num_threads, 1, 1024, is_optional=True)
        if self.memory_bytes is not None:
            check_bytes("engine.memory_bytes", self.memory_bytes, MIN_MEMORY_BYTES, 2**50)
        check_choice("engine.kv_cache_dtype", self.kv_cache_dtype, get_args(KVCacheDtype))
        check_choice("engine.quantization", self.quantization, get_args(Quantization))
        check_choice("engine.encoder_dtype", self.encoder_dtype, get_args(EncoderDtype))
        check_choice("engine.block_size", self.block_size, (32, 64, 128))
        check_integer(
            "engine.max_model_len", self.max_model_len, 1, MAX_CONTEXT_TOKENS, is_optional=True
        )
        check_integer("engine.max_num_seqs", self.max_num_seqs, 1, 4096)
        check_integer("engine.max_num_batched_tokens", self.max_num_batched_tokens, 1, 65536)
        mixed = self.max_mixed_prompt_tokens
        check_integer("engine.max_mixed_prompt_tokens", mixed, 1, 65536, is_optional=True)
        background = self.max_mixed_background_tokens
        check_integer("engine.max_mixed_background_tokens", background, 0, 65536)
        check_integer("engine.max_waiting_requests", self.max_waiting_requests, 1, 2**20)
        check_boolean("engine.enable_prefix_caching", self.enable_prefix_caching)
        check_boolean("engine.eager", self.eager)
        check_choice("engine.policy", self.policy, get_args(QueuePolicy))
        check_choice("engine.speculative", self.speculative, get_args(Speculative))
        check_integer("engine.lookup_past_tokens", self.lookup_past_tokens, 0, MAX_PAST_TOKENS)
        check_choice("engine.draft_acceptance", self.draft_acceptance, get_args(DraftAcceptance))
        self._check_draft_model()
        if self.chat_template is not None and not isinstance(self.chat_template, str):
            raise ConfigError("engine.chat_template", self.chat_template, "a file path")
        parse_adapters(self.adapters)
        if self.tensor_parallel_size > 1:
            self._check_ranks()
        if self.adapter_memory_bytes is not None:
            check_bytes("engine.adapter_memory_bytes", self.adapter_memory_bytes, 0, 2**50)
        check_choice("engine.canary", self.canary, get_args(CanaryMode))
        check_number("engine.stall_timeout_s", self.stall_timeout_s, 0.5, 3600.0)
        check_integer("engine.max_restarts", self.max_restarts, 0, 1000)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                "engine.max_num_batched_tokens",
                self.max_num_batched_tokens,
                f"at least engine.max_num_seqs ({self.max_num_seqs})",
                "Every running request computes at least one token per step.",
            )

    @property
    def wanted_draft_model(self) -> str | None:
        """The draft model that is to be loaded: none where guesses come from elsewhere."""
        is_unused = self.speculative in ("off", "prompt-lookup")
        return None if is_unused else self.draft_model

    @property
    def looks_up_all(self) -> bool:
        """Whether guesses are looked up in the texts of all requests."""
        has_both = self.speculative == "auto" and self.draft_model is not None
        return has_both or self.speculative in ("prompt-lookup", "both")

    def _check_ranks(self) -> None:
        """What a model that is divided over several GPUs cannot have."""
        size = self.tensor_parallel_size
        if self.device not in ("cuda", "reference"):
            raise ConfigError(
                "engine.tensor_parallel_size",
                size,
                f"1 on the device {self.device}",
                "A CPU runs a model whole, with engine.num_threads threads; for GPUs set "
                "engine.device: cuda, or HEADRACE_DEVICE=cuda.",
            )
        refused = {"engine.draft_model": self.wanted_draft_model, "engine.adapters": self.adapters}
        for field, value in refused.items():
            if value:
                allowed = f"nothing where engine.tensor_parallel_size is {size}"
                raise ConfigError(field, value, allowed, "Leave it out, or run on one GPU.")

    def _check_draft_model(self) -> None:
        name = self.draft_model
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError("engine.draft_model", name, "a model's name, or a path")
        if name is None and self.speculative in ("draft-model", "both"):
            raise ConfigError(
                "engine.speculative",
                self.speculative,
                "off, auto or prompt-lookup where engine.draft_model names no model",
                "Name a small model with the same vocabulary: --draft-model qwen2.5-coder:0.5b.",
            )
        if self.lookup_past_tokens and not self.looks_up_all:
            raise ConfigError(
                "engine.lookup_past_tokens",
                self.lookup_past_tokens,
                "0 where guesses are not looked up for all requests",
                "Say so with --speculative prompt-lookup, or name a draft model.",
            )
        if self.draft_acceptance == "rejection" and self.wanted_draft_model is None:
            raise ConfigError(
                "engine.draft_acceptance",
                self.draft_acceptance,
                "same-noise where no draft model guesses",
                "Guesses of prompt lookup are kept as often either way. Name a small model: "
                "--draft-model qwen2.5-coder:0.5b.",
            )


def parse_adapters(texts: object) -> dict[str, Path]:
    """Names and paths of `NAME=PATH`. Raises: ConfigError."""
    allowed = "NAME=PATH, NAME of letters, digits and . _ : / -, each once"
    if not isinstance(texts, tuple):
        raise ConfigError("engine.adapters", texts, f"a list of {allowed}")
    found: dict[str, Path] = {}
    for text in texts:
        name, mark, path = text.partition("=") if isinstance(text, str) else ("", "", "")
        if not mark or not path or not ADAPTER_NAME.fullmatch(name) or name in found:
            raise ConfigError("engine.adapters", text, allowed)
        found[name] = Path(path).expanduser().absolute()
    return found
