"""Every third-party library has one door; imports stand at the top; records are made one way."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import headrace

ROOT = Path(headrace.__file__).parent

DOORS = {
    "torch": ("ops/cuda",),
    "triton": ("ops/cuda",),
    "fastapi": ("server",),
    "starlette": ("server",),
    "pydantic": ("server",),
    "uvicorn": ("server",),
    "h11": (
        "bench/http_exchange.py",
        "client/http_connection.py",
        "server/plain_connection.py",
    ),
    "msgspec": ("server", "engine/frames.py"),
    "python_multipart": ("server/multipart_body.py",),
    "tokenizers": ("text",),
    "jinja2": ("text",),
    "safetensors": ("weights/safetensors.py",),
    "huggingface_hub": ("hub/huggingface.py",),
    "prometheus_client": ("observe",),
    "opentelemetry": ("observe/otel.py",),
    "sqlalchemy": ("store", "economics"),
    "psycopg": (),
    "yaml": ("config",),
    "typer": ("cli",),
    "rich": ("cli",),
    "llguidance": ("sampling/grammar.py",),
    "_cpu": ("ops/cpu",),
}


@cache
def modules() -> dict[str, ast.Module]:
    """Every file of the package, by its path below it."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for path in ROOT.rglob("*.py")
    }


def imported_names(module: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def library_of(name: str) -> str:
    parts = name.split(".")
    return parts[1] if parts[0] == "headrace" and len(parts) > 1 else parts[0]


def test_each_library_is_imported_behind_its_door_only() -> None:
    strangers = []
    for place, module in modules().items():
        for name in imported_names(module):
            doors = DOORS.get(library_of(name))
            if doors is not None and not place.startswith(doors or ("nowhere",)):
                strangers.append(f"{place} imports {name}")
    assert strangers == []


def test_no_import_stands_inside_a_function() -> None:
    inside = []
    for place, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside += [
                    f"{place}:{child.lineno}"
                    for child in ast.walk(node)
                    if isinstance(child, ast.Import | ast.ImportFrom)
                ]
    assert inside == []


def test_records_are_frozen_by_our_own_decorator() -> None:
    """Each `dataclass(frozen=True)` would cost every start half a millisecond of compiling."""
    standard = []
    for place, module in modules().items():
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dataclass":
                names = [keyword.arg for keyword in node.keywords]
                standard += [f"{place}:{node.lineno}"] * ("frozen" in names)
    assert standard == []
