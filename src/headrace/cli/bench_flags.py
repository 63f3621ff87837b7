"""The flags of a load, in records, and what can be wrong with them.

In: flags as typed. Out: LoadSettings, request fields, keys; ConfigError for whatever a person can
mend, before anything slow begins.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from headrace.bench.duration import parse_seconds
from headrace.bench.http_target import Api
from headrace.bench.lengths import Lengths, parse_lengths
from headrace.bench.load_report import LoadSettings, Mode
from headrace.bench.slo import parse_slo
from headrace.bench.workload import FilePrompt
from headrace.cli.output_file import check_output_file
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

_UNITS_OF_TIME = "more than 0, such as 90s or 5min"
MAX_RATE_PER_S = 1e5
MAX_NUM_REQUESTS = 100_000
"""All are drawn, and in memory, before the first is made."""


@frozen
class Shape:
    """What a mode is: how it drives the load, and the lengths it takes when none are given."""

    mode: Mode
    default_prompts: str
    default_outputs: str
    concurrency: int | None = None
    rate_per_s: float | None = None


@frozen
class Asked:
    """Flags of the load, as typed."""

    num_requests: int
    prompt_tokens: str | None
    output_tokens: str | None
    prompts: Path | None
    seed: int
    ignore_eos: bool
    timeout: str
    slo: str | None


@frozen
class ServerFlags:
    """Flags of a server that is asked; without `url` nothing here may be given."""

    url: str | None
    api: Api
    api_key_env: str | None
    body: str | None
    repeat_prompts: bool


@frozen
class EngineFlags:
    """Flags of an engine in this process; with a URL nothing here may be given."""

    threads: int | None = None
    isa: str | None = None
    kv_cache_dtype: str | None = None
    speculative: str | None = None
    memory: str | None = None
    config: Path | None = None
    draft_model: str | None = None
    draft_acceptance: str | None = None


@frozen
class Output:
    """Where results go."""

    as_json: bool
    save_json: Path | None
    save_html: Path | None


def make_settings(shape: Shape, asked: Asked) -> LoadSettings:
    """Read the flags of the load.

    Raises: ConfigError.
    """
    rate = shape.rate_per_s
    if rate is not None and not 0 < rate <= MAX_RATE_PER_S:
        raise ConfigError("--rate", rate, "more than 0 requests per second, at most 100000")
    if not 1 <= asked.num_requests <= MAX_NUM_REQUESTS:
        hint = "All are drawn before the first is made; run it again with another --seed for more."
        raise ConfigError("--num-requests", asked.num_requests, f"1 to {MAX_NUM_REQUESTS}", hint)
    timeout_s = parse_seconds(asked.timeout, "--timeout")
    if timeout_s <= 0:
        raise ConfigError("--timeout", asked.timeout, _UNITS_OF_TIME)
    return LoadSettings(
        mode=shape.mode,
        num_requests=asked.num_requests,
        concurrency=shape.concurrency,
        rate_per_s=rate,
        seed=asked.seed,
        prompt_tokens=_prompt_lengths(shape, asked),
        output_tokens=parse_lengths(
            asked.output_tokens or shape.default_outputs, "--output-tokens"
        ),
        prompts_file=None if asked.prompts is None else str(asked.prompts),
        ignore_eos=asked.ignore_eos,
        timeout_s=timeout_s,
        slo=None if asked.slo is None else parse_slo(asked.slo),
    )


def _prompt_lengths(shape: Shape, asked: Asked) -> Lengths | None:
    if asked.prompts is None:
        return parse_lengths(asked.prompt_tokens or shape.default_prompts, "--prompt-tokens")
    if asked.prompt_tokens is not None:
        hint = "A file's prompts are as long as they are; leave one of both out."
        raise ConfigError("--prompt-tokens", asked.prompt_tokens, "nothing with --prompts", hint)
    return None


def check_output(output: Output) -> None:
    """See that files can be written before hours of measuring.

    Raises: ConfigError.
    """
    for flag, path in (("--save-json", output.save_json), ("--save-html", output.save_html)):
        check_output_file(flag, path)


def check_engine_only(server: ServerFlags) -> None:
    """Raises: ConfigError for a flag that only a server knows."""
    given: dict[str, str | None] = {"--api-key-env": server.api_key_env, "--body": server.body}
    if server.api != "chat":
        given["--api"] = server.api
    if server.repeat_prompts:
        given["--repeat-prompts"] = "on"
    for flag, value in given.items():
        if value is not None:
            raise ConfigError(flag, value, "nothing without --url", "Add --url, or leave it out.")


def check_server_only(engine: EngineFlags) -> None:
    """Raises: ConfigError for a flag that only an engine in this process knows."""
    for field in fields(engine):
        value = getattr(engine, field.name)
        if value is not None:
            shown = str(value) if isinstance(value, Path) else value
            hint = "Set it where the server is started."
            name = field.name.replace("_", "-")
            raise ConfigError(f"--{name}", shown, "nothing with --url", hint)


def read_body(text: str | None) -> dict[str, Any]:
    """Fields to put over each request's body.

    Raises: ConfigError.
    """
    try:
        found = {} if text is None else json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError("--body", text, "a JSON object", f"{error}.") from None
    if not isinstance(found, dict):
        raise ConfigError("--body", text, "a JSON object")
    fixed = sorted({"stream", "stream_options", "n"} & set(found))
    if fixed:
        hint = f"{', '.join(fixed)} cannot change: one stream with usage is what is measured."
        raise ConfigError("--body", text, "fields other than these", hint)
    return found


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises: ValueError, for JSON itself would take the last one without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{json.dumps(twice)} is given twice; give it once")
    return found


def read_key(variable: str | None) -> str | None:
    """The API key that an environment variable holds.

    Raises: ConfigError.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        hint = "Set the variable before the command runs."
        raise ConfigError("--api-key-env", variable, "a variable that holds a key", hint)
    return key


def check_prompts(server: ServerFlags, prompts: tuple[FilePrompt, ...] | None) -> None:
    """Raises: ConfigError for messages where the route takes a text, for a file made to repeat."""
    if prompts is not None and server.repeat_prompts:
        hint = "A file's prompts are sent as they are; leave one of both out."
        raise ConfigError("--repeat-prompts", "on", "nothing with --prompts", hint)
    api = server.api
    for line in prompts or ():
        if api == "completions" and isinstance(line.prompt, tuple):
            hint = "The file has messages, which the chat route takes."
            raise ConfigError("--api", api, "chat with these --prompts", hint)
