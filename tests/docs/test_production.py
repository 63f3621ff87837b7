"""What runs a server in production: the image's recipe, the unit, the compose file, the backup."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer
import yaml
from pages import ROOT

from fakes.usage import make_row, open_database
from headrace.cli.app import build_app
from headrace.config.env import VARIABLES
from headrace.core.config import ServerConfig
from headrace.economics.ledger import UsageLedger
from headrace.server.auth import OPEN_PATHS

GUIDE = ROOT / "docs" / "guides" / "production.md"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNIT = (ROOT / "deploy" / "headrace.service").read_text()
HOME = "/var/lib/headrace"


def steps(name: str) -> list[str]:
    """The arguments of every instruction of that name, with its lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} +(.*)$", joined, re.MULTILINE)


def check_command(words: Sequence[str]) -> None:
    """The parser takes them."""
    app = typer.main.get_command(build_app(list(words)))
    context = app.make_context("headrace", list(words))
    _, command, rest = app.resolve_command(context, list(words))  # type: ignore[attr-defined]
    command.make_context(command.name, rest, parent=context)


def is_left_out(path: str) -> bool:
    """Whether .dockerignore keeps a file away: the last line that names it decides."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line]
    verdict = False
    for line in lines:
        pattern = line.lstrip("!").removeprefix("**/")
        names = [path, *map(str, Path(path).parents), Path(path).name]
        if not line.startswith("#") and any(fnmatch.fnmatch(name, pattern) for name in names):
            verdict = not line.startswith("!")
    return verdict


def sources_of_the_image() -> Iterator[Path]:
    for step in steps("COPY"):
        *given, _ = [word for word in step.split() if not word.startswith("--")]
        if "--from" not in step:
            yield from (ROOT / name for name in given)


def test_the_image_copies_what_there_is_and_what_the_build_reads() -> None:
    copied = list(sources_of_the_image())
    assert all(path.exists() for path in copied), copied
    tracked = subprocess.run(
        ["git", "ls-files", "--", *copied], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if tracked:  # an unpacked archive has no index
        assert [path for path in tracked if is_left_out(path)] == []
    # What an archive of the sources has, from which a wheel can be built.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = {"LICENSE", "README.md", "pyproject.toml"}
    names |= set(project["tool"]["scikit-build"]["sdist"]["include"])
    assert {name for name in names if not any(is_inside(ROOT / name, path) for path in copied)} == (
        set()
    )
    assert is_left_out("src/headrace/_cpu.abi3.so")
    assert is_left_out("tests/conftest.py")


def is_inside(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def test_the_image_runs_as_nobody_special_and_keeps_its_home() -> None:
    assert steps("USER") == ["headrace"]
    assert steps("VOLUME") == [HOME]
    (variables,) = steps("ENV")
    given = dict(word.split("=", 1) for word in variables.split())
    assert given["HEADRACE_HOME"] == HOME
    assert set(given) - {"PATH"} <= {variable.name for variable in VARIABLES}


def test_the_image_serves_and_is_probed_where_it_listens() -> None:
    assert yaml.safe_load(steps("ENTRYPOINT")[0]) == ["headrace"]
    check_command(yaml.safe_load(steps("CMD")[-1]))
    (probe,) = steps("HEALTHCHECK")
    url = urlsplit(re.search(r"http://[^']+", probe)[0])  # type: ignore[index]
    assert url.path in OPEN_PATHS
    assert steps("EXPOSE") == [str(url.port)] == [str(ServerConfig().port)]
    code = yaml.safe_load(probe.split("CMD", 1)[1])[2]
    compile(code, "probe", "exec")


def test_the_unit_runs_a_command_that_exists() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
    program, *words = shlex.split(line)
    assert Path(program).name == "headrace"
    check_command(words)
    (names,) = re.findall(r"^Environment=(.*)$", UNIT, re.MULTILINE)
    assert {word.split("=")[0] for word in names.split()} <= {v.name for v in VARIABLES}
    stop_s = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1])  # type: ignore[index]
    assert stop_s > ServerConfig().shutdown_timeout_s


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "headrace.service"
    unit.write_text(UNIT.replace("/opt/headrace/bin/headrace", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    about_it = [line for line in done.stderr.splitlines() if "headrace" in line]
    assert about_it == []


def test_the_compose_file_is_one_and_its_commands_parse() -> None:
    read = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    server = read["services"]["server"]
    check_command(server["command"])
    assert set(server["environment"]) <= {variable.name for variable in VARIABLES}
    volumes = [each.split(":")[0] for service in read["services"].values()
               for each in service["volumes"]]  # fmt: skip
    assert set(volumes) == set(read["volumes"])
    assert int(server["stop_grace_period"].rstrip("s")) > ServerConfig().shutdown_timeout_s
    assert (ROOT / "deploy" / server["build"]).resolve() == ROOT


def test_the_backup_of_the_guide_is_whole_while_rows_are_written(tmp_path: Path) -> None:
    (line,) = re.findall(r'^python3 -c "(import sqlite3.*)"$', GUIDE.read_text(), re.MULTILINE)
    database = open_database(tmp_path)
    ledger = UsageLedger(database)
    ledger.append([make_row(number) for number in range(50)])
    is_over = threading.Event()

    def write() -> None:
        number = 50
        while not is_over.is_set():
            ledger.append([make_row(number + extra) for extra in range(10)])
            number += 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    finally:
        is_over.set()
        writer.join()
        database.close()
    assert done.returncode == 0, done.stderr
    copy = sqlite3.connect(tmp_path / "backup.db")
    assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    (count,) = copy.execute("SELECT count(*) FROM usage_rows").fetchone()
    copy.close()
    # Every write has ten rows.
    assert count >= 50
    assert count % 10 == 0
