"""Settings as frozen records, one per package, checked on construction.

In: values of the right type (`config.load` reads files, `config.env` the environment). Out: records
that nobody writes to. `None` means "derive it"; `config.resolve` does that once. A class receives
its own record or plain values, never `Config`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from headrace.core.errors import ConfigError
from headrace.core.units import format_bytes

if TYPE_CHECKING:  # most starts have no tiers
    from headrace.core.routing_config import RoutingConfig

Device = Literal["auto", "cpu", "cuda", "reference"]
Isa = Literal["generic", "avx2", "avx512", "amx"]
KVCacheDtype = Literal["auto", "bf16", "int8"]
EncoderDtype = Literal["auto", "f32", "bf16", "q8_0"]
CanaryMode = Literal["warn", "refuse", "off"]
Speculative = Literal["off", "auto", "prompt-lookup", "draft-model", "both"]
DraftAcceptance = Literal["same-noise", "rejection"]
QueuePolicy = Literal["fair", "fcfs", "priority"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]
LedgerMode = Literal["auto", "on", "off"]
RequestStorage = Literal["off", "redacted", "full"]

# The model of commands that are given none; the catalogue of `hub` describes it.
DEFAULT_MODEL = "qwen2.5-coder:0.5b"
DEFAULT_ENCODER = "all-minilm-l6-v2"
MIN_MEMORY_BYTES = 64 * 1024**2
MAX_PAST_TOKENS = 2**22
DEFAULT_ADAPTER_MEMORY_BYTES = 256 * 1024**2
ADAPTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_ENDPOINT = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?(?<!/v1/traces)")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the engine computes and what it may use.

    Fields:
        device: `cpu` is the C++ extension, `cuda` an NVIDIA GPU through the extra `cuda`,
            `reference` numpy; `auto` is `cpu`, or `reference` without the extension.
        isa: highest instruction set that kernels may use; None is the best of this CPU.
        num_threads: threads of the kernels; None is one per physical core this process may use.
        memory_bytes: weights, KV cache and scratch together; None is a share of what is free.
        kv_cache_dtype: how keys and values are stored: `bf16`, or `int8` with a scale per token and
            KV head, which holds 1.7 to 1.9 times the tokens in the same memory; `auto` is bf16.
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
    isa: Isa | None = None
    num_threads: int | None = None
    memory_bytes: int | None = None
    kv_cache_dtype: KVCacheDtype = "auto"
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
    adapters: tuple[str, ...] = ()
    adapter_memory_bytes: int | None = None
    canary: CanaryMode = "warn"
    stall_timeout_s: float = 5.0
    max_restarts: int = 5

    def __post_init__(self) -> None:
        _check_choice("engine.device", self.device, get_args(Device))
        _check_choice("engine.isa", self.isa, (None, *get_args(Isa)))
        _check_integer("engine.num_threads", self.num_threads, 1, 1024, is_optional=True)
        if self.memory_bytes is not None:
            _check_bytes("engine.memory_bytes", self.memory_bytes, MIN_MEMORY_BYTES, 2**50)
        _check_choice("engine.kv_cache_dtype", self.kv_cache_dtype, get_args(KVCacheDtype))
        _check_choice("engine.encoder_dtype", self.encoder_dtype, get_args(EncoderDtype))
        _check_choice("engine.block_size", self.block_size, (32, 64, 128))
        _check_integer("engine.max_model_len", self.max_model_len, 1, 2**24, is_optional=True)
        _check_integer("engine.max_num_seqs", self.max_num_seqs, 1, 4096)
        _check_integer("engine.max_num_batched_tokens", self.max_num_batched_tokens, 1, 65536)
        mixed = self.max_mixed_prompt_tokens
        _check_integer("engine.max_mixed_prompt_tokens", mixed, 1, 65536, is_optional=True)
        background = self.max_mixed_background_tokens
        _check_integer("engine.max_mixed_background_tokens", background, 0, 65536)
        _check_integer("engine.max_waiting_requests", self.max_waiting_requests, 1, 2**20)
        _check_boolean("engine.enable_prefix_caching", self.enable_prefix_caching)
        _check_boolean("engine.eager", self.eager)
        _check_choice("engine.policy", self.policy, get_args(QueuePolicy))
        _check_choice("engine.speculative", self.speculative, get_args(Speculative))
        _check_integer("engine.lookup_past_tokens", self.lookup_past_tokens, 0, MAX_PAST_TOKENS)
        _check_choice("engine.draft_acceptance", self.draft_acceptance, get_args(DraftAcceptance))
        self._check_draft_model()
        parse_adapters(self.adapters)
        if self.adapter_memory_bytes is not None:
            _check_bytes("engine.adapter_memory_bytes", self.adapter_memory_bytes, 0, 2**50)
        _check_choice("engine.canary", self.canary, get_args(CanaryMode))
        _check_number("engine.stall_timeout_s", self.stall_timeout_s, 0.5, 3600.0)
        _check_integer("engine.max_restarts", self.max_restarts, 0, 1000)
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


def default_home() -> Path:
    """Where files go when nobody says: `~/.cache/headrace`."""
    return Path.home() / ".cache" / "headrace"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """Where model files live and how they get there.

    Fields:
        home: folder of everything headrace keeps on disk.
        offline: never open a connection; what is not local is an error.
        connect_timeout_s: a source that has not accepted a connection by then is skipped.
    """

    home: Path = field(default_factory=default_home)
    offline: bool = False
    connect_timeout_s: float = 3.0

    def __post_init__(self) -> None:
        if not isinstance(self.home, Path):
            raise ConfigError("hub.home", self.home, "a folder path")
        _check_boolean("hub.offline", self.offline)
        _check_number("hub.connect_timeout_s", self.connect_timeout_s, 0.1, 300.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """What is kept about callers: API keys, the usage ledger, responses.

    Fields:
        database_url: `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`; None is the file
            `headrace.db` in `hub.home`.
        ledger: a row of usage per request; `auto` writes it once there is a key.
        max_waiting_rows: rows that wait in memory while the database cannot be written.
        max_spill_bytes: rows beyond those wait in a file of at most this size; more are lost, which
            is logged and counted.
        response_retention_days: how long answers of `/v1/responses` are kept, with what was asked;
            0 keeps none.
        max_tenant_responses: answers kept for one tenant; the oldest that have ended make room.
        batch_retention_days: how long a batch that has ended can be asked for; its files go by
            their own expiry.
        files_dir: folder of callers' files and batches, one for each database; None is beside the
            SQLite file, or in `hub.home`.
        requests: keep calls so that `headrace reproduce` can run them again: `off`; `redacted`,
            with digests in place of prompt and answer, which cannot be run; or `full`.
        request_retention_days: how long they are kept.
    """

    database_url: str | None = None
    ledger: LedgerMode = "auto"
    max_waiting_rows: int = 20_000
    max_spill_bytes: int = 256 * 1024**2
    response_retention_days: int = 30
    max_tenant_responses: int = 100_000
    batch_retention_days: int = 60
    files_dir: Path | None = None
    requests: RequestStorage = "off"
    request_retention_days: int = 30

    def __post_init__(self) -> None:
        url = self.database_url
        if url is not None and (not isinstance(url, str) or "://" not in url):
            shown = "a text without ://" if isinstance(url, str) else url
            allowed = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
            raise ConfigError("store.database_url", shown, allowed)
        _check_choice("store.ledger", self.ledger, get_args(LedgerMode))
        _check_integer("store.max_waiting_rows", self.max_waiting_rows, 100, 2**24)
        _check_bytes("store.max_spill_bytes", self.max_spill_bytes, 1024, 2**40)
        days = self.response_retention_days
        _check_integer("store.response_retention_days", days, 0, 36_500)
        _check_integer("store.max_tenant_responses", self.max_tenant_responses, 1, 2**31)
        _check_integer("store.batch_retention_days", self.batch_retention_days, 1, 36_500)
        if self.files_dir is not None and not isinstance(self.files_dir, Path):
            raise ConfigError("store.files_dir", self.files_dir, "a folder path")
        _check_choice("store.requests", self.requests, get_args(RequestStorage))
        days = self.request_retention_days
        _check_integer("store.request_retention_days", days, 1, 36_500)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The HTTP server.

    Fields:
        host, port: address to listen on; port 0 takes a free one.
        served_model_names: names clients may use, the first is shown; empty is the model's own.
        default_max_tokens: answer length if a request names none; None is what the context leaves.
        max_body_bytes: larger request bodies are refused.
        max_json_depth: lists and objects that a request body may nest.
        max_json_objects: lists and objects that a request body may have in all; names in objects
            are eight times as many.
        max_prompts: prompts that one completions request may carry.
        body_timeout_s: a request body that has not arrived by then is refused.
        request_timeout_s: an answer that is not complete by then is stopped.
        heartbeat_s: a stream that has nothing to say that long sends a comment line.
        shutdown_timeout_s: how long running requests may finish after a stop signal.
        max_file_bytes: larger files are not taken at `/v1/files`.
        max_tenant_file_bytes: files of one tenant together.
        max_tenant_batches: batches of one tenant that are not finished.
        max_batch_requests: answers of batches in progress at once, of all tenants together.
        allow_runtime_adapters: load and unload LoRA adapters while the server runs, with the routes
            of vLLM, by keys with the scope admin.
        idle_unload_s: a model that nobody asked for so long gives its memory back, and is loaded
            when the next request comes; None keeps it.
        require_key: do not start, and answer nobody, while there is no API key.
        protect_metrics: `/metrics` needs a key with the scope metrics, once there are keys.
        ssl_certfile: PEM file with the certificate and its chain; the server speaks HTTPS with it.
        ssl_keyfile: PEM file with its private key; None looks for it in ssl_certfile.
        cors_origins: web pages that may call from a browser, such as `https://app.example.org`;
            `*` is every page, empty none.
        allowed_hosts: names that clients may call the server by; empty is any, but on a loopback
            address without keys only addresses and names without a dot (against DNS rebinding).
        header_timeout_s: a connection on which no complete request head came by then is closed.
        write_timeout_s: a client that takes nothing of its answer that long is cut off.
        max_connections: open at a time; None is what the open-file limit leaves.
        tenant_metrics: tenants that have series of their own in `/metrics`, those seen first; all
            others are counted as `other`. 0 counts none.
        old_metric_names: metrics that had another name have that too.
        otlp_endpoint: OpenTelemetry receiver (OTLP over HTTP), such as `http://localhost:4318`:
            calls are sent there as traces and gen_ai metrics; needs the extra `otel`. None sends
            nothing.
        trace_sample_ratio: share of calls that are traced, where their caller does not decide it.
        log_level: detail of the log on stderr.
        log_format: `text` for people, or `json`, an object per line.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    served_model_names: tuple[str, ...] = ()
    default_max_tokens: int | None = None
    max_body_bytes: int = 16 * 1024**2
    max_json_depth: int = 64
    max_json_objects: int = 32_768
    max_prompts: int = 256
    body_timeout_s: float = 30.0
    request_timeout_s: float = 3600.0
    heartbeat_s: float = 5.0
    shutdown_timeout_s: float = 10.0
    max_file_bytes: int = 512 * 1024**2
    max_tenant_file_bytes: int = 10 * 1024**3
    max_tenant_batches: int = 100
    max_batch_requests: int = 16
    allow_runtime_adapters: bool = False
    idle_unload_s: float | None = None
    require_key: bool = False
    protect_metrics: bool = False
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    header_timeout_s: float = 10.0
    write_timeout_s: float = 60.0
    max_connections: int | None = None
    tenant_metrics: int = 0
    old_metric_names: bool = False
    otlp_endpoint: str | None = None
    trace_sample_ratio: float = 1.0
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ConfigError("server.host", self.host, "a host name or address")
        _check_integer("server.port", self.port, 0, 65535)
        names = self.served_model_names
        if not isinstance(names, tuple) or not all(
            isinstance(name, str) and name for name in names
        ):
            raise ConfigError("server.served_model_names", names, "a list of non-empty names")
        if len(set(names)) != len(names):
            raise ConfigError("server.served_model_names", names, "each name once")
        _check_integer(
            "server.default_max_tokens", self.default_max_tokens, 1, 2**24, is_optional=True
        )
        _check_bytes("server.max_body_bytes", self.max_body_bytes, 1024, 2**32)
        _check_integer("server.max_json_depth", self.max_json_depth, 4, 256)
        _check_integer("server.max_json_objects", self.max_json_objects, 64, 2**24)
        _check_integer("server.max_prompts", self.max_prompts, 1, 2**16)
        _check_number("server.body_timeout_s", self.body_timeout_s, 0.1, 3600.0)
        _check_number("server.request_timeout_s", self.request_timeout_s, 0.1, 2**24)
        _check_number("server.heartbeat_s", self.heartbeat_s, 0.01, 3600.0)
        _check_number("server.shutdown_timeout_s", self.shutdown_timeout_s, 0.0, 3600.0)
        _check_bytes("server.max_file_bytes", self.max_file_bytes, 1024, 2**40)
        _check_bytes("server.max_tenant_file_bytes", self.max_tenant_file_bytes, 1024, 2**50)
        _check_integer("server.max_tenant_batches", self.max_tenant_batches, 1, 2**20)
        _check_integer("server.max_batch_requests", self.max_batch_requests, 1, 4096)
        _check_boolean("server.allow_runtime_adapters", self.allow_runtime_adapters)
        if self.idle_unload_s is not None:
            _check_number("server.idle_unload_s", self.idle_unload_s, 1.0, 2**24)
        _check_boolean("server.require_key", self.require_key)
        _check_boolean("server.protect_metrics", self.protect_metrics)
        self._check_reach()
        _check_number("server.header_timeout_s", self.header_timeout_s, 0.1, 3600.0)
        _check_number("server.write_timeout_s", self.write_timeout_s, 0.1, 3600.0)
        _check_integer("server.max_connections", self.max_connections, 1, 2**20, is_optional=True)
        _check_integer("server.tenant_metrics", self.tenant_metrics, 0, 10_000)
        _check_boolean("server.old_metric_names", self.old_metric_names)
        endpoint = self.otlp_endpoint
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            allowed = "http://HOST:PORT or https://..., without /v1/traces"
            raise ConfigError("server.otlp_endpoint", endpoint, allowed)
        _check_number("server.trace_sample_ratio", self.trace_sample_ratio, 0.0, 1.0)
        _check_choice("server.log_level", self.log_level, get_args(LogLevel))
        _check_choice("server.log_format", self.log_format, get_args(LogFormat))

    def _check_reach(self) -> None:
        """TLS files, and the names of pages and hosts."""
        for field_name in ("ssl_certfile", "ssl_keyfile"):
            path = getattr(self, field_name)
            if path is not None and not isinstance(path, Path):
                raise ConfigError(f"server.{field_name}", path, "a file path")
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            shown = str(self.ssl_keyfile)
            raise ConfigError("server.ssl_keyfile", shown, "a key together with ssl_certfile")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                allowed = "origins as browsers send them, such as https://app.example.org, or *"
                raise ConfigError("server.cors_origins", origin, allowed)
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                allowed = "host names in lower case, without scheme and port"
                raise ConfigError("server.allowed_hosts", host, allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class EconomicsConfig:
    """What tokens cost.

    Fields:
        price_files: files with prices (`headrace prices check FILE`), the first one that has a
            model counts; after them come the built-in prices.
        stale_after_days: a price that was last checked longer ago is shown as stale.
    """

    price_files: tuple[str, ...] = ()
    stale_after_days: int = 365

    def __post_init__(self) -> None:
        files = self.price_files
        if not isinstance(files, tuple) or not all(
            isinstance(file, str) and file for file in files
        ):
            raise ConfigError("economics.price_files", files, "a list of file paths")
        _check_integer("economics.stale_after_days", self.stale_after_days, 1, 36_500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every setting. Only config, launch, llm, deploy and cli see the whole.

    `routing` is None where a file names no tiers.
    """

    engine: EngineConfig = field(default_factory=EngineConfig)
    hub: HubConfig = field(default_factory=HubConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    economics: EconomicsConfig = field(default_factory=EconomicsConfig)
    routing: RoutingConfig | None = None


def _check_choice(name: str, value: object, allowed: Sequence[object]) -> None:
    if isinstance(value, bool) or value not in allowed:
        shown = ", ".join("none" if choice is None else str(choice) for choice in allowed)
        raise ConfigError(name, value, f"one of {shown}")


def _check_integer(
    name: str, value: object, low: int, high: int, is_optional: bool = False
) -> None:
    if is_optional and value is None:
        return
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(name, value, f"a whole number from {low} to {high}")


def _check_bytes(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(
            name,
            value,
            f"bytes from {format_bytes(low)} to {format_bytes(high)}, a number or with a unit",
        )


def _check_number(name: str, value: object, low: float, high: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:  # type: ignore[operator]
        raise ConfigError(name, value, f"a number from {low:g} to {high:g}")


def _check_boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(name, value, "true or false")
