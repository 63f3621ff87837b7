"""The real server with the real model, started once; its log is shown when a test fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Program
from served_model import ServedModel, serve

from headrace.core.config import DEFAULT_MODEL


@pytest.fixture(scope="session")
def served(qwen05_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """`headrace serve` with the 0.5B model, under the name examples use, on a free port."""
    with serve(DEFAULT_MODEL, tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            program = getattr(value, "program", value)
            if isinstance(program, Program):
                report.sections.append((f"stderr of {name}", program.stderr[-4000:]))
    return report
