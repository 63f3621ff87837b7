"""What the pages say is there: links, files, commands, settings, and the generated reference."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from pages import PAGES, ROOT, Block, anchors, blocks, links, prose, quoted

from fakes.workload_files import write_workload
from headrace.cli.app import COMMANDS, build_app
from headrace.config.load import build_config, convert, flatten
from headrace.config.routing import make_routing
from headrace.economics.price_files import read_price_file
from headrace.planner.workload_file import read_workload

ARCHITECTURE = ROOT / "ARCHITECTURE.md"
PACKAGE = ROOT / "src" / "headrace"
COMMAND_LINE = re.compile(r"^(?:.*\| )?(?:\.venv/bin/)?headrace (?P<arguments>.+)$")
# Stand for a name in a path: `models/<model_type>.py`, `docs/log/YYYY-MM.md`.
PLACEHOLDER = re.compile(r"<\w+>|NNNN-title|YYYY-MM")


def command_lines() -> list[tuple[str, str]]:
    """Every line of a page's code that runs headrace, with its page."""
    return [
        (block.name, match["arguments"])
        for block in blocks("", "sh", "bash", "console")
        for line in block.text.splitlines()
        if not is_output(block) and (match := COMMAND_LINE.match(line.removeprefix("$ ")))
    ]


def is_output(block: Block) -> bool:
    """Help pages show what the program prints."""
    return block.page.name == "cli.md"


def make_targets() -> list[tuple[str, str]]:
    return [
        (block.name, match[1])
        for block in blocks("", "sh", "bash", "console")
        for line in block.text.splitlines()
        if not is_output(block) and (match := re.match(r"(?:\$ )?make ([a-z-]+)", line))
    ]


def test_the_reference_is_what_the_program_says() -> None:
    script = ROOT / "scripts" / "make_reference_docs.py"
    done = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_pages_that_are_named_in_text_exist() -> None:
    """`docs/...`, `tests/...` and the like in backticks, on every page but the history."""
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in PAGES
        if "log" not in page.parts and page.name != "CHANGELOG.md"
        for name in quoted(page)
        if re.fullmatch(r"(docs|tests|src|csrc|scripts|benchmarks|examples)/[\w./<>*-]+", name)
        and not exists(name)
    ]
    assert missing == []


def test_tests_that_are_named_exist() -> None:
    """`tests/FILE.py::NAME` in backticks: a promise that names its proof keeps naming it."""
    named = [
        (page, *name.split("::", 1))
        for page in PAGES
        for name in quoted(page)
        if re.fullmatch(r"tests/[\w/]+\.py::\w+", name)
    ]
    assert len(named) >= 40
    missing = [
        f"{page.relative_to(ROOT)}: {path}::{test}"
        for page, path, test in named
        if not (ROOT / path).is_file()
        or not re.search(rf"^(async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert missing == []


def exists(name: str, *roots: Path) -> bool:
    pattern = PLACEHOLDER.sub("*", name).rstrip("/")
    return any(next(root.glob(pattern), None) for root in roots or (ROOT,))


def test_every_file_of_the_map_exists() -> None:
    names = [
        name
        for text in quoted(ARCHITECTURE)
        for name in re.findall(r"[\w/<>*.-]+", text)
        if re.search(r"/|\.(py|md|inl|json|toml)$", name) and not name.startswith("v1/")
    ]
    assert len(names) > 30
    missing = [name for name in names if not exists(name, ROOT, PACKAGE, ROOT / "tests")]
    assert missing == []


def test_every_module_of_the_map_exists() -> None:
    """`sched.scheduler`, in tables and in the drawings."""
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    text = ARCHITECTURE.read_text(encoding="utf-8")
    named = re.findall(rf"\b({'|'.join(sorted(packages))})\.(?!py\b)([a-z]\w+)\b", text)
    assert len(named) > 10
    # What a package offers may be named without its file: `ops.sample`, `sched.update`.
    verbs = {"sample", "schedule", "update"}
    missing = [
        f"{package}.{name}"
        for package, name in named
        if name not in verbs
        and not (PACKAGE / package / f"{name}.py").is_file()
        and not (PACKAGE / package / name).is_dir()
    ]
    assert missing == []


def test_the_map_has_every_package_in_the_order_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [re.findall(r"\w+", layer) for layer in contracts["contracts"][0]["layers"]]
    table = prose(ARCHITECTURE).split("## The packages", 1)[1].split("\n## ", 1)[0]
    rows = [re.findall(r"`(\w+)(?:\.py)?`", row.split("|")[1]) for row in table.splitlines()
            if row.startswith("| `") and "csrc" not in row]  # fmt: skip
    order = {name: index for index, names in enumerate(layers) for name in names}
    assert sorted(name for row in rows for name in row) == sorted(order)
    positions = [min(order[name] for name in row) for row in rows]
    assert positions == sorted(positions), "top imports bottom"


@pytest.mark.parametrize(("page", "arguments"), command_lines(), ids=str)
def test_command_lines_parse(page: str, arguments: str) -> None:
    """The parser takes them: the command, its options and the types of their values."""
    words = shlex.split(arguments, comments=True)
    app = typer.main.get_command(build_app(words))
    assert words[0] in COMMANDS or words[0].startswith("-"), page
    context = app.make_context("headrace", list(words))
    if words[0] not in COMMANDS:
        return
    _, command, words = app.resolve_command(context, words)  # type: ignore[attr-defined]
    context = command.make_context(command.name, words, parent=context)
    if hasattr(command, "commands"):
        _, part, words = command.resolve_command(context, [*context._protected_args, *context.args])
        part.make_context(part.name, words, parent=context)


def test_there_are_command_lines() -> None:
    assert len(command_lines()) >= 12
    assert {arguments.split()[0] for _, arguments in command_lines()} >= set(COMMANDS) - {"rm"}


@pytest.mark.parametrize(("page", "target"), make_targets(), ids=str)
def test_make_targets_exist(page: str, target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{target}:", makefile, re.MULTILINE), page


# What a block begins with says what reads it; every other block is a file of settings.
PRICE_FILES, WORKLOADS = ("prices:", "machines:"), ("name:",)


def yaml_blocks(*beginnings: str) -> list[Block]:
    """Blocks that begin so; without beginnings, the files of settings."""
    known = beginnings or (*PRICE_FILES, *WORKLOADS)
    return [block for block in blocks("yaml") if block.text.startswith(known) is bool(beginnings)]


@pytest.mark.parametrize("block", yaml_blocks(*PRICE_FILES), ids=lambda block: block.name)
def test_price_files_are_taken(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(block.text)
    assert read_price_file(file).prices


@pytest.mark.parametrize("block", yaml_blocks(*WORKLOADS), ids=lambda block: block.name)
def test_workloads_are_taken(block: Block, tmp_path: Path) -> None:
    write_workload(tmp_path).write_text(block.text)
    assert read_workload(tmp_path / "work.yaml").calls


@pytest.mark.parametrize("block", yaml_blocks(), ids=lambda block: block.name)
def test_settings_files_are_taken(block: Block) -> None:
    tree = yaml.safe_load(block.text)
    settings = flatten(tree)
    assert settings or make_routing(tree).tiers
    build_config({name: convert(name, value) for name, value in settings.items()})
