"""`headrace bench`: the four measurements, and which of them a bare `headrace bench MODEL` is.

In: arguments. Out: a typer application that `cli.app` adds as a command. A first word that is no
measurement belongs to `roof`.
"""

from __future__ import annotations

from typing import Any

import typer

from headrace.cli.bench_load import latency, serve, throughput
from headrace.cli.bench_roof import roof
from headrace.cli.plain_values import BenchCommand, PlainGroup

_DEFAULT = "roof"


class _BenchGroup(PlainGroup):
    """Takes `headrace bench MODEL` for `headrace bench roof MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_named = bool(args) and args[0] in (*self.commands, "-h", "--help")
        return super().parse_args(ctx, args if is_named else [_DEFAULT, *args])


def _group() -> None:
    """Measure a model beside this machine's limits, or a server under load.

    Without the name of a measurement, `roof` is meant: `headrace bench MODEL`.
    """


bench = typer.Typer(cls=_BenchGroup, rich_markup_mode=None, add_completion=False)
bench.callback()(_group)
for _command in (roof, latency, throughput, serve):
    bench.command(_command.__name__, cls=BenchCommand)(_command)
