"""`headrace keys`: make, list, change and revoke the API keys of a server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Annotated

import typer
from rich.table import Table

from headrace.cli.moments import read_moment, show_moment
from headrace.cli.plain_values import PlainCommand, PlainGroup
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.core.clock import SystemClock
from headrace.core.config import Config
from headrace.core.errors import ConfigError, HeadraceError
from headrace.core.stores import ApiKey, KeyLimits
from headrace.store.database import Database, open_database
from headrace.store.keys import KeyStore

DatabaseOption = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Database, when it is not the one of the settings."),
]


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name that lists and reports show.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCOPE",
            help="inference, metrics or admin; may be repeated. Default: inference.",
        ),
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who pays, and who shares cached prompts: keys of one tenant do. "
            "Default: the key's name.",
        ),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Requests per minute. Default: no limit.")
    ] = None,
    input_tokens_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Prompt tokens per minute. Default: no limit.")
    ] = None,
    output_tokens_per_minute: Annotated[
        int | None, typer.Option(metavar="N", help="Answer tokens per minute. Default: no limit.")
    ] = None,
    max_concurrent_requests: Annotated[
        int | None, typer.Option(metavar="N", help="Requests at a time. Default: no limit.")
    ] = None,
    priority: Annotated[
        int,
        typer.Option(metavar="N", help="Whose requests run first: lower ones."),
    ] = 0,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When servers begin to refuse it: 12h, 30d, 8w, or a day of UTC such as "
            "2027-01-31. Default: never.",
        ),
    ] = None,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Make a key and print its secret: the only time that it is shown.

    A server that runs on the same database takes the key within seconds; with its first key it
    stops answering those who have none.
    """
    limits = KeyLimits(
        requests_per_minute=requests_per_minute,
        input_tokens_per_minute=input_tokens_per_minute,
        output_tokens_per_minute=output_tokens_per_minute,
        max_concurrent_requests=max_concurrent_requests,
    )
    until_s = None if expires is None else read_moment("--expires", expires, time.time())
    with _open_store(database, config_file) as (store, place):
        if store is None:
            raise HeadraceError(f"{place} was removed while the key was being made.")
        key, secret = store.create(name, tenant, scope or ["inference"], limits, priority, until_s)
    scopes = ", ".join(key.scopes)
    until = "" if key.expires_at_s is None else f", until {show_moment(key.expires_at_s)}"
    typer.echo(f"key {key.name} for tenant {key.tenant} ({scopes}){until} in {place}", err=True)
    typer.echo("It is not shown again:", err=True)
    typer.echo(secret)


def list_(
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """List keys, ended ones too; of a secret only its beginning."""
    with _open_store(database, config_file, may_create=False) as (store, place):
        keys = store.list() if store is not None else ()
    if is_json:
        rows = [{"prefix": key.prefix, **asdict(key)} for key in keys]
        typer.echo(json.dumps(rows, indent=2))
        return
    open_console().print(_make_table(keys))
    told = f"Keys are in {place}" if store is not None else f"{place} does not exist yet"
    typer.echo(told, err=True)


def revoke(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name or prefix of a key, as the list shows it.")
    ],
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """End a key; servers refuse it within seconds. There is no way back."""
    with _open_store(database, config_file, may_create=False) as (store, place):
        if store is None:
            raise HeadraceError(f"There is no key: {place} does not exist.")
        key = store.revoke(name)
        is_last = store.ring().are_all_ended
    typer.echo(f"key {key.name} ({key.prefix}) is revoked")
    if is_last:
        typer.echo(
            "No key is in use now: servers on this database answer nobody. They do not open again: "
            "`headrace keys create NAME` makes a key.",
            err=True,
        )


def change(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name or prefix of a key, as the list shows it.")
    ],
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="Whose requests run first: lower ones.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="When it ends: 12h, 30d, 8w, a day of UTC, or never."),
    ] = None,
    database: DatabaseOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Give a key another priority or another end; servers follow within seconds."""
    if priority is None and expires is None:
        raise ConfigError("--priority", None, "a number, here or a moment in --expires")
    is_endless = expires is not None and expires.strip().lower() == "never"
    until_s = None
    if expires is not None and not is_endless:
        until_s = read_moment("--expires", expires, time.time())
    with _open_store(database, config_file, may_create=False) as (store, place):
        if store is None:
            raise HeadraceError(f"There is no key: {place} does not exist.")
        key = store.change(name, priority=priority, expires_at_s=until_s, never_expires=is_endless)
    end = "never expires" if key.expires_at_s is None else f"ends {show_moment(key.expires_at_s)}"
    typer.echo(f"key {key.name} ({key.prefix}) has priority {key.priority} and {end}")


def database_of(config: Config) -> Database:
    """The database of the settings, else the file in the home folder. Raises: ConfigError."""
    return open_database(config.store.database_url, config.hub.home)


@contextmanager
def _open_store(
    url: str | None, config_file: ConfigOption, may_create: bool = True
) -> Iterator[tuple[KeyStore | None, str]]:
    """The keys, and where they are; None where there is no database and none may be made."""
    config = load_config(config_file, {"store.database_url": url})
    database = database_of(config)
    if may_create:
        database.create_file()
    try:
        store = KeyStore(database, SystemClock()) if database.exists() else None
        yield store, database.shown
    finally:
        database.close()


def _make_table(keys: Sequence[ApiKey]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for title in ("NAME", "PREFIX", "TENANT", "SCOPES", "LIMITS", "PRIORITY", "CREATED", "STATE"):
        table.add_column(title, overflow="fold")
    now_s = time.time()
    for key in keys:
        table.add_row(
            key.name,
            key.prefix,
            key.tenant,
            ", ".join(key.scopes),
            _show_limits(key.limits),
            str(key.priority),
            _show_day(key.created_at_s),
            _show_state(key, now_s),
        )
    return table


def _show_limits(limits: KeyLimits) -> str:
    units = ("requests/min", "input tokens/min", "output tokens/min", "at a time")
    values = [getattr(limits, field.name) for field in fields(limits)]
    shown = [f"{value} {unit}" for value, unit in zip(values, units, strict=True) if value]
    return ", ".join(shown) or "none"


def _show_state(key: ApiKey, now_s: float) -> str:
    if key.revoked_at_s is not None:
        return f"revoked {_show_day(key.revoked_at_s)}"
    if key.expires_at_s is None:
        return "in use"
    is_over = key.has_expired(now_s)
    return f"{'expired' if is_over else 'in use until'} {show_moment(key.expires_at_s)}"


def _show_day(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))


def _group() -> None:
    """API keys: who may use the server, as which tenant, within which limits."""


keys = typer.Typer(cls=PlainGroup, rich_markup_mode=None, add_completion=False)
keys.callback()(_group)
for _name, _command in (
    ("create", create),
    ("list", list_),
    ("change", change),
    ("revoke", revoke),
):
    keys.command(_name, cls=PlainCommand)(_command)
