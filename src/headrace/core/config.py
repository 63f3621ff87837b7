"""Settings as frozen records, one per package, checked on construction.

In: values of the right type (`config.load` reads files, `config.env` the environment). Out: records
that nobody writes to. `None` means "derive it"; `config.resolve` does that once. A class receives
its own record or plain values, never `Config`. Those of the engine and the server have files of
their own.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from headrace.core.config_checks import (
    check_boolean,
    check_bytes,
    check_choice,
    check_integer,
    check_number,
)
from headrace.core.engine_config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.server_config import ServerConfig

if TYPE_CHECKING:  # most starts have no tiers
    from headrace.core.routing_config import RoutingConfig

__all__ = [
    "DEFAULT_ENCODER",
    "DEFAULT_MODEL",
    "Config",
    "EconomicsConfig",
    "EngineConfig",
    "HubConfig",
    "ServerConfig",
    "StoreConfig",
    "default_home",
]

LedgerMode = Literal["auto", "on", "off"]
RequestStorage = Literal["off", "redacted", "full"]

# The model of commands that are given none; the catalogue of `hub` describes it.
DEFAULT_MODEL = "qwen2.5-coder:0.5b"
DEFAULT_ENCODER = "all-minilm-l6-v2"


def default_home() -> Path:
    """Where files go when nobody says: `~/.cache/headrace`."""
    return Path.home() / ".cache" / "headrace"


@frozen(kw_only=True)
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
        check_boolean("hub.offline", self.offline)
        check_number("hub.connect_timeout_s", self.connect_timeout_s, 0.1, 300.0)


@frozen(kw_only=True)
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
        check_choice("store.ledger", self.ledger, get_args(LedgerMode))
        check_integer("store.max_waiting_rows", self.max_waiting_rows, 100, 2**24)
        check_bytes("store.max_spill_bytes", self.max_spill_bytes, 1024, 2**40)
        days = self.response_retention_days
        check_integer("store.response_retention_days", days, 0, 36_500)
        check_integer("store.max_tenant_responses", self.max_tenant_responses, 1, 2**31)
        check_integer("store.batch_retention_days", self.batch_retention_days, 1, 36_500)
        if self.files_dir is not None and not isinstance(self.files_dir, Path):
            raise ConfigError("store.files_dir", self.files_dir, "a folder path")
        check_choice("store.requests", self.requests, get_args(RequestStorage))
        days = self.request_retention_days
        check_integer("store.request_retention_days", days, 1, 36_500)


@frozen(kw_only=True)
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
        check_integer("economics.stale_after_days", self.stale_after_days, 1, 36_500)


@frozen(kw_only=True)
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
