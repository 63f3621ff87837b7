"""Days that commands are given: a period of the usage ledger, the day of prices. All are of UTC."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

import typer

from headrace.core.errors import ConfigError

SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="DAY",
        help="First day, UTC: 2026-11-01, or 7d for the last seven days.",
    ),
]
UntilOption = Annotated[
    str | None, typer.Option("--until", metavar="DAY", help="Last day, which is included.")
]
PriceDayOption = Annotated[
    str | None,
    typer.Option("--day", metavar="DAY", help="Prices of that day, UTC. Default: today."),
]


def read_period(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """First and last day as milliseconds of Unix, from and until before. Raises: ConfigError."""
    today = datetime.now(UTC).date()
    since_ms = None if since is None else _to_ms(_read_day("--since", since, today))
    until_ms = None
    if until is not None:
        until_ms = _to_ms(_read_day("--until", until, today) + timedelta(days=1))
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise ConfigError("--until", until, f"the day of --since, {since}, or one after it")
    return since_ms, until_ms


def read_price_day(text: str | None) -> date:
    """Today, unless another day is named. Raises: ConfigError."""
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError("--day", text, "a day such as 2026-11-22") from None


def _read_day(flag: str, text: str, today: date) -> date:
    """Raises: ConfigError."""
    if match := re.fullmatch(r"(\d{1,4})d", text):
        return today - timedelta(days=max(int(match[1]) - 1, 0))
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(flag, text, "a day such as 2026-11-01, or 7d") from None


def _to_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
