"""`headrace reproduce`: run a stored request again and show that the answer is the same."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from headrace.cli.generation import (
    DraftModelOption,
    IsaOption,
    KVCacheDtypeOption,
    LoraOption,
    MemoryOption,
    NoPullOption,
    SpeculativeOption,
    ThreadsOption,
    find_model,
)
from headrace.cli.keys import DatabaseOption, database_of
from headrace.cli.settings import ConfigOption, load_config
from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.engine_config import parse_adapters
from headrace.core.errors import ConfigError, HeadraceError
from headrace.core.stored_requests import StoredRequest
from headrace.launch.backends import open_engine
from headrace.launch.reproduction import Comparison, local_sender, repeat
from headrace.store.requests import RequestStore
from headrace.weights.adapter_files import check_adapters

EXIT_DIFFERENT = 3
_TIMEOUT_S = 3600.0


def reproduce(
    request_id: Annotated[
        str,
        typer.Argument(metavar="REQUEST_ID", help="The x-request-id of the answer."),
    ],
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Ask this server, such as http://localhost:8000. Default: an engine here.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Model to ask, name or file. Default: the one that answered."
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose request, when several sent this id."),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Environment variable with the API key for --url."),
    ] = None,
    memory: MemoryOption = None,
    threads: ThreadsOption = None,
    isa: IsaOption = None,
    kv_cache_dtype: KVCacheDtypeOption = None,
    speculative: SpeculativeOption = None,
    draft_model: DraftModelOption = None,
    lora: LoraOption = None,
    no_pull: NoPullOption = False,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Run a stored request again, with the seed it had, and compare every token.

    A server stores requests with the setting store.requests: full. The exit code is 0 when every
    token is the same and 3 when one is not; then the first one, and what differs between the two
    receipts, are shown.
    """
    flags = {
        "store.database_url": database,
        "engine.memory_bytes": memory,
        "engine.num_threads": threads,
        "engine.isa": isa,
        "engine.kv_cache_dtype": kv_cache_dtype,
        "engine.speculative": speculative,
        "engine.draft_model": draft_model,
        "engine.adapters": tuple(lora) if lora else None,
    }
    config = load_config(config_file, flags)
    stored = _find(config, request_id, tenant)
    if url is None:
        is_adapter = stored.model in parse_adapters(config.engine.adapters)
        if is_adapter and model is None:
            raise ConfigError("--model", model, "the model that --lora goes over")
        compared = asyncio.run(_repeat_here(config, stored, model or stored.model, not no_pull))
    else:
        server = _Server(url, _read_key(api_key_env), stored.operation)
        compared = asyncio.run(repeat(stored, server.send, model))
    _show(stored, compared)
    if not compared.is_identical:
        raise typer.Exit(EXIT_DIFFERENT)


def _find(config: Config, request_id: str, tenant: str | None) -> StoredRequest:
    """The newest request of that id. Raises: HeadraceError, ConfigError, StoreError."""
    opened = database_of(config)
    try:
        found = []
        if opened.exists():
            days = config.store.request_retention_days
            found = list(RequestStore(opened, SystemClock(), days).find(request_id, tenant))
    finally:
        opened.close()
    if not found:
        whose = "" if tenant is None else f" of tenant {tenant}"
        raise HeadraceError(
            f"There is no stored request {request_id!r}{whose} in {opened.shown}. Servers store "
            "requests with the setting store.requests: full, for store.request_retention_days "
            f"({config.store.request_retention_days})."
        )
    tenants = sorted({request.tenant for request in found})
    if len(tenants) > 1:
        allowed = f"one of {', '.join(tenants)}: each of them sent this id"
        raise ConfigError("--tenant", tenant, allowed)
    return found[0]


async def _repeat_here(
    config: Config, stored: StoredRequest, model: str, may_pull: bool
) -> Comparison:
    if stored.is_redacted:
        return await repeat(stored, _unreachable)
    check_adapters(config.engine)
    find_model(config, model, may_pull=may_pull)
    engine = open_engine(model, config)
    with local_sender(engine, model, config, stored) as (send, name):
        await engine.start()
        try:
            if any(info.name == stored.model for info in engine.models()):
                name = stored.model  # an adapter's
            return await repeat(stored, send, name)
        finally:
            await engine.stop()


async def _unreachable(_: Mapping[str, Any]) -> Mapping[str, Any]:
    raise RuntimeError("a redacted request has no body")


class _Server:
    """A server that answers bodies."""

    def __init__(self, url: str, key: str | None, path: str) -> None:
        """Raises: ConfigError."""
        self._url, self._path = urlsplit(url if "//" in url else f"http://{url}"), path
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise ConfigError("--url", url, "an address such as http://localhost:8000")
        self._headers = {"Content-Type": "application/json"}
        self._headers |= {} if key is None else {"Authorization": f"Bearer {key}"}

    async def send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises: HeadraceError."""
        return await asyncio.to_thread(self._post, body)

    def _post(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        kind = http.client.HTTPSConnection
        connect = kind if self._url.scheme == "https" else http.client.HTTPConnection
        place = f"{self._url.scheme}://{self._url.netloc}"
        connection = connect(self._url.hostname or "", self._url.port, timeout=_TIMEOUT_S)
        path = self._url.path.rstrip("/").removesuffix("/v1") + self._path
        try:
            connection.request("POST", path, json.dumps(body), self._headers)
            reply = connection.getresponse()
            answer = json.loads(reply.read())
        except (OSError, http.client.HTTPException) as error:
            raise HeadraceError(
                f"{place} does not answer: {error or type(error).__name__}."
            ) from None
        except ValueError:
            raise HeadraceError(f"{place}{path} did not answer with JSON.") from None
        finally:
            connection.close()
        if reply.status != 200 or not isinstance(answer, dict):
            error_body = answer.get("error") if isinstance(answer, dict) else None
            message = error_body.get("message") if isinstance(error_body, dict) else answer
            raise HeadraceError(f"{place}{path} answered {reply.status}: {message}")
        return answer


def _read_key(name: str | None) -> str | None:
    """Raises: ConfigError."""
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise ConfigError("--api-key-env", name, "an environment variable that holds a key")
    return key


def _show(stored: StoredRequest, compared: Comparison) -> None:
    at = datetime.fromtimestamp(stored.created_at_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    typer.echo(f"request {stored.request_id} of {at} UTC, {stored.model}", err=True)
    if compared.is_identical:
        answers = "1 answer" if compared.num_answers == 1 else f"{compared.num_answers} answers"
        typer.echo(f"bit-identical: all {compared.num_tokens} tokens of {answers}")
    for line in compared.tokens:
        typer.echo(f"different: {line}")
    for line in compared.receipt:
        typer.echo(f"receipt: {line}")
