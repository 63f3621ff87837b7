"""`headrace explain`: which factor determines how fast a model is here, beside the roof."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from headrace.bench.explain import Explanation, conclusions
from headrace.bench.explain import explain as run_explain
from headrace.bench.explain_plan import plan_explain
from headrace.bench.roofline import Factor, Point
from headrace.bench.time_limit import TimeLimit
from headrace.cli.generation import DraftModelOption, MemoryOption, ThreadsOption
from headrace.cli.progress import ensure_model
from headrace.cli.progress_views import count_view
from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.config.machine import detect_machine
from headrace.convert.format_plan import check_target, fitting, is_rounded
from headrace.convert.gguf_source import GgufSource
from headrace.convert.quantize_file import Rounding, quantize_file
from headrace.core.config import DEFAULT_MODEL
from headrace.core.errors import ConfigError
from headrace.hub.model_store import ModelStore
from headrace.weights.gguf import GgufReader
from headrace.weights.weight_reader import open_weights

FULL_ROUNDS, FULL_FORMATS = 3, "q8_0"
# Of --quick, from the first engine on; starting and what is in progress then take the rest of a
# minute.
QUICK_S = 45.0


def explain(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Model to explain.")
    ] = DEFAULT_MODEL,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer cases, one round, no other formats; within a minute."),
    ] = False,
    rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Rounds of everything; the middle one counts. Default: 3."
        ),
    ] = None,
    formats: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Formats of weights to make for this and try, with commas between. "
            f"Default: {FULL_FORMATS}; with --quick none.",
            show_default=False,
        ),
    ] = None,
    draft_model: DraftModelOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Say what determines the speed of a model here, beside what this machine could do at best.

    Changes one thing at a time: requests at once, context, threads, how keys and values are stored,
    guesses, the format of weights. Each step stands beside the time that reading and multiplying
    take at the roof of that minute. Formats are rounded for their speed alone, and deleted. --quick
    without --rounds leaves out what a slow machine has no time for, and says so.
    """
    settled = {
        "engine.num_threads": threads,
        "engine.memory_bytes": memory,
        "engine.draft_model": draft_model,
    }
    config = load_config(config_file, settled)
    wanted = ("" if quick else FULL_FORMATS) if formats is None else formats
    names = [name.strip().lower() for name in wanted.split(",") if name.strip()]
    for name in names:
        check_target(name, "--formats")
    path = ensure_model(ModelStore(config.hub), model).path
    with _made(path, names) as made:
        planned = plan_explain(model, config, made, quick)
        num_rounds = rounds or (1 if quick else FULL_ROUNDS)
        total = num_rounds * planned.num_cases
        with count_view(total, "cases", TimeRemainingColumn()) as view:
            found = asyncio.run(
                run_explain(
                    planned.variants,
                    planned.sweeps,
                    num_rounds,
                    lambda name: view.count(has_failed=False, what=name),
                    TimeLimit(QUICK_S, total) if quick and rounds is None else None,
                )
            )
    if as_json:
        typer.echo(json.dumps({"model": model, "rounds": num_rounds, **found.as_json()}))
        return
    _print(model, found)


@contextmanager
def _made(path: Path, names: list[str]) -> Iterator[Mapping[str, str]]:
    """The model in other formats, as long as they are needed. Raises: ConfigError."""
    with tempfile.TemporaryDirectory(prefix="headrace-explain-") as folder:
        made = {}
        for name in names:
            typer.echo(f"making {name}", err=True)
            made[name] = str(_make(path, name, Path(folder) / f"{name}.gguf"))
        yield made


def _make(path: Path, name: str, output: Path) -> Path:
    reader = open_weights(path)
    try:
        if not isinstance(reader, GgufReader):
            raise ConfigError("--formats", name, "nothing for a model that is no GGUF file")
        source = GgufSource(reader)
        # Finer formats too, which keep no more than the model has: only their speed is wanted.
        chosen = {
            tensor.name: fitting(name, tensor.shape[-1])
            if is_rounded(tensor)
            else tensor.format.name
            for tensor in source.tensors
        }
        quantize_file(source, Rounding(chosen, "nearest"), output, detect_machine().num_cores)
    finally:
        reader.close()
    return output


def _print(model: str, found: Explanation) -> None:
    console = open_console()
    console.print(Text(f"{model}: what was tried, by effect", style="bold"))
    table = _table("factor", "of", "slowest", "fastest", "tokens/s", "times")
    for factor in found.factors:
        table.add_row(*map(Text, _factor_row(factor)))
    console.print(table)
    console.print(Text("\nsteps beside the roof", style="bold"))
    table = _table("step", "rows", "context", "ms", "tokens/s", "reading", "multiplying",
                   "roof reached", "nearest roof")  # fmt: skip
    for point in found.points:
        table.add_row(*map(Text, _point_row(point)))
    console.print(table)
    console.print(Text(""))
    for sentence in conclusions(found):
        console.print(Text(sentence))


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading.upper(), overflow="fold")
    return table


def _factor_row(factor: Factor) -> tuple[str, ...]:
    return (
        factor.factor,
        "one stream" if factor.is_for_one else "all streams",
        factor.worst,
        factor.best,
        f"{factor.worst_tokens_per_s:.1f} -> {factor.best_tokens_per_s:.1f}",
        f"{factor.times:.2f}",
    )


def _beside_roof(point: Point) -> tuple[str, ...]:
    return (
        f"{1e3 * point.memory_s:.1f} ms",
        f"{1e3 * point.arithmetic_s:.1f} ms",
        f"{point.share:.0%}",
        point.bound,
    )


def _point_row(point: Point) -> tuple[str, ...]:
    return (
        point.name,
        str(point.load.num_rows),
        str(point.load.context_tokens),
        f"{1e3 * point.step_s:.1f}",
        f"{point.tokens_per_s:.1f}",
        *(_beside_roof(point) if point.is_step else ("-",) * 4),
    )
