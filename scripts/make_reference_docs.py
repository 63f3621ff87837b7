"""Write docs/reference from the program itself: settings, environment, commands, metrics, errors.

`--check` writes nothing and fails when a page differs from what the program would write.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import typer
from typer.testing import CliRunner

from headrace.cli.app import COMMANDS, build_app
from headrace.config.env import VARIABLES
from headrace.config.load import SECTIONS
from headrace.core import errors, telemetry
from headrace.core.request import SamplingParams
from headrace.core.routing_config import (
    CacheConfig,
    CascadeConfig,
    RoutingConfig,
    RuleConfig,
    TierBackendConfig,
    TierConfig,
)
from headrace.core.routing_options import (
    HedgeConfig,
    LearnedConfig,
    SelfCheckConfig,
    SemanticConfig,
    ShadowConfig,
)
from headrace.core.upstreams import UpstreamConfig
from headrace.server.body_schemas import BODIES
from headrace.server.openai_completions import DEFAULT_MAX_TOKENS

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
ROUTING: tuple[tuple[str, type[Any]], ...] = (
    ("upstreams.NAME", UpstreamConfig),
    ("tiers.NAME", TierConfig),
    ("tiers.NAME.backends[]", TierBackendConfig),
    ("tiers.NAME.hedge", HedgeConfig),
    ("routing", RoutingConfig),
    ("routing.rules[]", RuleConfig),
    ("routing.cascades.NAME", CascadeConfig),
    ("routing.cascades.NAME.self_check", SelfCheckConfig),
    ("routing.learned.NAME", LearnedConfig),
    ("routing.shadow", ShadowConfig),
    ("routing.cache", CacheConfig),
    ("routing.cache.semantic", SemanticConfig),
)
# The map's key, what tiers name, and sections of their own.
NOT_GIVEN = {
    ("upstreams.NAME", "name"),
    ("upstreams.NAME", "models"),
    ("tiers.NAME", "name"),
    ("routing.cascades.NAME", "name"),
    ("routing.learned.NAME", "name"),
    ("routing", "upstreams"),
    ("routing", "tiers"),
}
NOTE = "<!-- Written by scripts/make_reference_docs.py; `make fix` renews it. -->\n\n"


def config_page() -> str:
    """Every setting of a YAML file, with its default and meaning."""
    lines = [
        "# Settings",
        "",
        "A YAML file (`--config FILE`) has these sections. Strongest first: a flag, an environment",
        "variable, the file, the default. An unknown key is an error that lists near names.",
    ]
    for section, kind in SECTIONS.items():
        lines += ["", f"## {section}", "", "| setting | default | meaning |", "|---|---|---|"]
        texts = field_texts(inspect.getdoc(kind) or "")
        for field in fields(kind):
            lines.append(f"| `{field.name}` | {default_of(field)} | {texts[field.name]} |")
    lines += [
        "",
        "## Tiers",
        "",
        "What [../guides/route.md](../guides/route.md) is about. A map has",
    ]
    lines += ["names of your own as its keys; `-` is to be given."]
    for title, entry in ROUTING:
        lines += ["", f"### {title}", "", "| setting | default | meaning |", "|---|---|---|"]
        texts = field_texts(inspect.getdoc(entry) or "")
        for field in fields(entry):
            if (title, field.name) not in NOT_GIVEN:
                lines.append(f"| `{field.name}` | {default_of(field)} | {texts[field.name]} |")
    return "\n".join(lines) + "\n"


def field_texts(doc: str) -> dict[str, str]:
    """Names and meanings of a docstring's `Fields:` part; `a, b: text` serves both."""
    part = doc.split("Fields:", 1)[1]
    texts: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n      +.*)*)", part, re.M):
        for name in names.split(", "):
            texts[name] = re.sub(r"\s+", " ", text).strip()
    return texts


def default_of(field: Field[Any]) -> str:
    """A default as the manual shows it."""
    if field.default_factory is not MISSING or field.default is None:
        return "derived"
    if field.default is MISSING:
        return "-"
    return f"`{list(field.default) if isinstance(field.default, tuple) else field.default}`"


def env_page() -> str:
    """Every environment variable."""
    rows = [f"| `{variable.name}` | {variable.text} |" for variable in VARIABLES]
    return "\n".join(["# Environment", "", "| variable | meaning |", "|---|---|", *rows]) + "\n"


def command_names() -> list[tuple[str, ...]]:
    """The program, its commands, and the commands of those that have some."""
    names: list[tuple[str, ...]] = [()]
    for name in COMMANDS:
        command = typer.main.get_command(build_app([name])).commands[name]
        names += [(name,), *((name, part) for part in getattr(command, "commands", ()))]
    return names


def cli_page() -> str:
    """The help of every command, as the program prints it."""
    runner = CliRunner(env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"})
    parts = ["# Commands\n"]
    for words in command_names():
        arguments = [*words, "--help"]
        result = runner.invoke(build_app(arguments), arguments, prog_name="headrace")
        title = " ".join(("headrace", *words))
        shown = "\n".join(line.rstrip() for line in result.output.strip().splitlines())
        parts.append(f"## {title}\n\n```\n{shown}\n```\n")
    return "\n".join(parts)


def metrics_page() -> str:
    """Every metric of /metrics."""
    rows = []
    for metric in telemetry.METRICS:
        labels = (*(("model_name", "engine") if metric.per_model else ()), *metric.labels)
        old = f" Old name: `{metric.old_name}`." if metric.old_name else ""
        shown = ", ".join(labels) or "-"
        rows.append(f"| `{metric.name}` | {metric.kind} | {shown} | {metric.help}{old} |")
    head = [
        "# Metrics",
        "",
        "`server.old_metric_names` adds the old names, `server.tenant_metrics` what tenants use:",
        "[../guides/observe.md](../guides/observe.md).",
        "",
    ]
    table = ["| name | kind | labels | meaning |", "|---|---|---|---|", *rows]
    return "\n".join(head + table) + "\n"


def errors_page() -> str:
    """The exception tree."""
    tree = (errors.__doc__ or "").split("\n\n", 1)[1].strip()
    rows = [
        f"| `{name}` | {(inspect.getdoc(kind) or '').splitlines()[0]} |"
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.HeadraceError)
    ]
    table = ["| exception | meaning |", "|---|---|", *rows]
    return "\n".join(["# Errors", "", "```", tree, "```", "", *table]) + "\n"


def http_fields_page() -> str:
    """Every body field of the generation routes: accepted with what it allows, or refused."""
    lines = ["# Body fields", "", "Fields that nobody defines are ignored and named in the header"]
    lines += ["`x-headrace-warnings`. A refused field is a 400 that names it. A field that is left"]
    lines += ["out or null has its default. `-` is none: a required field must be given, and what"]
    lines += ["any other asks for is not done unless it is.", ""]
    routes = (
        ("/v1/chat/completions", "what the context leaves"),
        ("/v1/completions", f"`{DEFAULT_MAX_TOKENS}`"),
        *((path, "-") for path in ("/v1/embeddings", "/v1/score", "/v1/rerank", "/classify")),
        *((path, "-") for path in ("/v1/messages", "/tokenize", "/detokenize")),
        ("/v1/responses", "what the context leaves"),
    )
    for route, default_length in routes:
        schema, refused = BODIES[route]
        lines += [f"## POST {route}", "", "| field | allowed | default |", "|---|---|---|"]
        length = f"`server.default_max_tokens`, else {default_length}"
        for name, field in schema.model_fields.items():
            if name in refused:
                continue
            need = " (required)" if field.is_required() else ""
            lengths = ("max_tokens", "max_completion_tokens", "max_output_tokens")
            is_length = name in lengths and not need
            default = length if is_length else field_default(route, name)
            lines.append(f"| `{name}`{need} | {field.description} | {default} |")
        if refused:
            lines += ["", "| refused field | why, and what to do |", "|---|---|"]
            lines += [f"| `{name}` | {reason} |" for name, reason in refused.items()]
        lines.append("")
    return "\n".join(lines)


def field_default(route: str, name: str) -> str:
    """What a field is when a body leaves it out, as JSON."""
    if name in ("stream", "add_generation_prompt"):
        return "`false`" if name == "stream" else "`true`"
    if (route, name) == ("/v1/completions", "add_special_tokens"):
        return "`true`"
    if route == "/v1/responses" and name in ("store", "truncation"):
        return "`true`" if name == "store" else "`disabled`"
    value = getattr(SamplingParams(), name, None)
    return "-" if value in (None, (), {}) else f"`{json.dumps(value)}`"


PAGES: dict[str, Callable[[], str]] = {
    "config.md": config_page,
    "env.md": env_page,
    "cli.md": cli_page,
    "metrics.md": metrics_page,
    "errors.md": errors_page,
    "http-fields.md": http_fields_page,
}


def stale_pages() -> list[str]:
    """Names of pages that differ from what the program says."""
    return [
        name
        for name, make in PAGES.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text() != NOTE + make()
    ]


def main() -> None:
    if "--check" in sys.argv:
        stale = stale_pages()
        if stale:
            sys.exit(f"docs/reference: {', '.join(stale)} differ from the program; run `make fix`.")
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (FOLDER / name).write_text(NOTE + make())


if __name__ == "__main__":
    main()
