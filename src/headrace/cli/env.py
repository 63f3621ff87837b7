"""`headrace env`: this machine, the settings and where each comes from, and what runs where.

In: nothing but the process's own surroundings. Out: tables, or one JSON object. A problem, such as
an instruction set that cannot run here, is shown beside the rest and makes the exit code 2.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from headrace.cli.settings import ConfigOption, load_config
from headrace.cli.tables import open_console
from headrace.config.env import PREFIX, VARIABLES
from headrace.config.machine import detect_machine
from headrace.config.resolve import GivenSetting, gather_settings, resolve_engine
from headrace.core.config import Config, EngineConfig
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.machine import Machine
from headrace.core.units import format_bytes
from headrace.core.version import headrace_version
from headrace.hub.model_store import ModelStore
from headrace.ops.kernel_note import IsaStatus, KernelNote
from headrace.ops.table import chosen_isa, describe_gpu, describe_kernels, isa_tiers

DERIVED = {
    "engine.memory_bytes": "when a model is loaded, from what is free",
    "engine.max_model_len": "when a model is loaded, from the model and the memory",
    "server.default_max_tokens": "per request, what the context leaves",
}
# Variables of others that change what headrace does.
OTHER_VARIABLES = ("XDG_CACHE_HOME", "HF_ENDPOINT", "HF_HOME", "HTTPS_PROXY", "NO_PROXY")


@frozen
class ShownSetting:
    """A setting, its value in use, and who chose it."""

    name: str
    value: object
    source: str


@frozen(kw_only=True)
class Environment:
    """Everything that `headrace env` shows. `problems` are the sentences of what is wrong."""

    versions: Mapping[str, str]
    machine: Machine
    device: str
    num_threads: int | None
    isa: str | None
    isa_reason: str
    isas: Sequence[IsaStatus]
    kernels: Sequence[KernelNote]
    store_path: Path
    store_bytes: int
    num_models: int
    settings: Sequence[ShownSetting]
    variables: Mapping[str, str]
    problems: Sequence[str]


def env(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    config_file: ConfigOption = None,
) -> None:
    """Show this machine, the settings, and what runs where.

    Which instruction sets the CPU has, which of them the kernels use and why, where models are,
    every setting with its source. Send it along when you report a problem.
    """
    config = load_config(config_file)
    found = collect(config, gather_settings({}, os.environ, config_file), os.environ)
    if as_json:
        typer.echo(json.dumps(as_record(found), indent=2))
    else:
        console = open_console()
        for table in make_tables(found):
            console.print(table)
            console.print()
    if found.problems:
        for problem in found.problems:
            typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(2)


def collect(
    config: Config, given: Mapping[str, GivenSetting], environ: Mapping[str, str]
) -> Environment:
    """Ask the machine, the extension and the store."""
    problems: list[str] = []
    machine = detect_machine()
    engine = resolve_engine(config.engine, machine)
    isas: Sequence[IsaStatus] = ()
    gpu: str | None = None
    isa: str | None = None
    kernels: Sequence[KernelNote] = ()
    try:
        isas = isa_tiers()
        isa = chosen_isa(engine.isa) if engine.device == "cpu" else None
        gpu = describe_gpu(engine.device)
        kernels = describe_kernels(engine.device, engine.isa)
    except ConfigError as error:
        problems.append(error.message)
    store = ModelStore(config.hub)
    return Environment(
        versions={
            "headrace": headrace_version(),
            "python": f"{platform.python_version()} ({sys.executable})",
            "system": platform.platform(),
            "cpu": machine.cpu_model,
            **({} if gpu is None else {"gpu": gpu}),
        },
        machine=machine,
        device=engine.device,
        num_threads=engine.num_threads,
        isa=isa,
        isa_reason=why_isa(isa, given.get("engine.isa")),
        isas=isas,
        kernels=kernels,
        store_path=config.hub.home,
        store_bytes=folder_bytes(config.hub.home),
        num_models=len(store.list()),
        settings=show_settings(config, engine, isa, given),
        variables=set_variables(environ),
        problems=problems,
    )


def why_isa(isa: str | None, given: GivenSetting | None) -> str:
    """Who chose the instruction set."""
    if given is not None and given.value is not None:
        return f"asked for by {given.source}"
    return "the highest that runs here" if isa is not None else "no kernels of the CPU are used"


def show_settings(
    config: Config, engine: EngineConfig, isa: str | None, given: Mapping[str, GivenSetting]
) -> list[ShownSetting]:
    """Every setting as it is used: given, derived now, derived later, or the default."""
    derived = {
        "engine.device": (engine.device, "derived: the best installed"),
        "engine.num_threads": (engine.num_threads, "derived: one per core"),
        "engine.isa": (isa, "derived: the highest that runs here"),
        "engine.kv_cache_dtype": (engine.kv_cache_dtype, "derived: as exact as the kernels"),
    }
    shown = []
    # Tiers are no settings of one value each.
    for section in (entry for entry in fields(config) if entry.name != "routing"):
        record = getattr(config, section.name)
        for field in fields(record):
            name, value = f"{section.name}.{field.name}", getattr(record, field.name)
            if value in (None, "auto") and name in derived:
                shown.append(ShownSetting(name, *derived[name]))
            elif value is None and name in DERIVED:
                shown.append(ShownSetting(name, None, f"derived: {DERIVED[name]}"))
            else:
                source = given[name].source if name in given else "default"
                shown.append(ShownSetting(name, value, source))
    return shown


def set_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that are set and change what headrace does, and those that look as if they did.

    A password in a URL is left out: people send this report along.
    """
    names = {variable.name for variable in VARIABLES} | set(OTHER_VARIABLES)
    shown = [name for name in sorted(environ) if name in names or name.startswith(PREFIX)]
    return {name: re.sub(r"//[^/@]*@", "//...@", environ[name]) for name in shown}


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, also of those that links in it lead to, each once."""
    sizes: dict[tuple[int, int], int] = {}
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        # What goes away meanwhile, leads nowhere or may not be read has no bytes here.
        with contextlib.suppress(OSError):
            found = path.stat()
            name = found.st_dev, found.st_ino
            if stat.S_ISREG(found.st_mode):
                sizes[name] = found.st_size
            elif stat.S_ISDIR(found.st_mode) and name not in seen:
                seen.add(name)
                waiting += path.iterdir()
    return sum(sizes.values())


def as_record(found: Environment) -> dict[str, Any]:
    """The same as plain JSON values. Units: bytes."""
    record = asdict(found)
    record["store_path"] = str(found.store_path)
    record["settings"] = [
        {"name": row.name, "value": _plain(row.value), "source": row.source}
        for row in found.settings
    ]
    return record


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def make_tables(found: Environment) -> Iterable[Table]:
    """The report for people, one table per question."""
    machine = found.machine
    yield _table(
        ("MACHINE", ""),
        [
            *found.versions.items(),
            ("cores", f"{machine.num_cores} ({machine.num_cpus} hardware threads)"),
            (
                "memory",
                f"{format_bytes(machine.memory_total_bytes)}, "
                f"{format_bytes(machine.memory_available_bytes)} available",
            ),
            ("device", f"{found.device}, {found.num_threads} threads"),
            (
                "models",
                f"{found.num_models} in {found.store_path}, {format_bytes(found.store_bytes)}",
            ),
        ],
    )
    yield _table(
        ("INSTRUCTION SET", "HERE", ""),
        [
            (
                tier.name,
                "yes" if tier.is_available else "no",
                f"used: {found.isa_reason}" if tier.name == found.isa else tier.reason,
            )
            for tier in found.isas
        ],
    )
    yield _table(
        ("OP", "RUNS ON", "WHY", "WEIGHTS"),
        [
            (note.family, note.implementation, note.reason, " ".join(note.formats))
            for note in found.kernels
        ],
    )
    yield _table(
        ("SETTING", "VALUE", "FROM"),
        [(row.name, _shown(row.name, row.value), row.source) for row in found.settings],
    )
    if found.variables:
        yield _table(("VARIABLE", "VALUE"), list(found.variables.items()))


def _shown(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name.endswith("_bytes") and isinstance(value, int):
        return format_bytes(value)
    if isinstance(value, tuple):
        return ", ".join(value) or "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    rows = list(rows)
    # The first column is what people copy into a file or a command: others are broken first.
    widths = [len(text) for text in (titles[0], *(row[0] for row in rows))]
    first = Column(titles[0], no_wrap=True, min_width=max(widths))
    rest = [Column(title, overflow="fold") for title in titles[1:]]
    table = Table(first, *rest, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table
