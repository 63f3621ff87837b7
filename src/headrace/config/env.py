"""Every environment variable of headrace, in one table.

In: a mapping such as `os.environ`. Out: dotted settings with text still in them, for
`config.resolve`, and warnings about names that nobody reads. Values are checked where all values
are, so that a bad one is reported under the variable's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.core.near_names import did_you_mean
from headrace.core.server_config import LogLevel

PREFIX = "HEADRACE_"
CONFIG_FILE = "HEADRACE_CONFIG"
LOG_LEVEL = "HEADRACE_LOG_LEVEL"


@frozen
class Variable:
    """One variable: the setting it stands for (None: not a setting) and what the manual says."""

    name: str
    setting: str | None
    text: str


VARIABLES: tuple[Variable, ...] = (
    Variable(CONFIG_FILE, None, "YAML file with settings, read when --config is not given."),
    Variable(
        "HEADRACE_HOME",
        "hub.home",
        "Folder for models and caches. Default: $XDG_CACHE_HOME/headrace, else ~/.cache/headrace.",
    ),
    Variable("HEADRACE_OFFLINE", "hub.offline", "1 opens no connection to fetch a model."),
    Variable(
        "HEADRACE_CONNECT_TIMEOUT_S",
        "hub.connect_timeout_s",
        "Seconds after which a download source that does not answer is skipped. Default: 3.",
    ),
    Variable("HEADRACE_DEVICE", "engine.device", "auto, cpu, cuda or reference. Default: auto."),
    Variable(
        "HEADRACE_ISA",
        "engine.isa",
        "Highest instruction set for kernels: generic, avx2, avx512, avx512bf16, amx. "
        "Default: the CPU's best.",
    ),
    Variable(
        "HEADRACE_NUM_THREADS",
        "engine.num_threads",
        "Threads of the kernels. Default: one per physical core.",
    ),
    Variable(
        "HEADRACE_MEMORY",
        "engine.memory_bytes",
        "Memory for weights, KV cache and scratch, such as 4GiB. Default: from what is free.",
    ),
    Variable(
        "HEADRACE_DATABASE",
        "store.database_url",
        "Database of API keys and usage: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
    ),
    Variable(
        "HEADRACE_STORE_REQUESTS",
        "store.requests",
        "Keep calls so that they can be run again: off, redacted or full. Default: off.",
    ),
    Variable(
        LOG_LEVEL,
        "server.log_level",
        "debug, info, warning or error; debug also shows tracebacks. Default: info.",
    ),
    Variable(
        "HEADRACE_LOG_FORMAT",
        "server.log_format",
        "The log of a server: text, or json, an object per line. Default: text.",
    ),
)


def read_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Collect the settings that the environment gives: dotted name -> (variable, text).

    An empty value counts as not set.
    """
    return {
        variable.setting: (variable.name, environ[variable.name])
        for variable in VARIABLES
        if variable.setting is not None and environ.get(variable.name, "").strip()
    }


def read_secret(variable: str, environ: Mapping[str, str], field: str) -> str:
    """A key that settings name. `field` is where they name it; the key is in no error.

    Raises: ConfigError when there is none, or one that no header can hold.
    """
    text = environ.get(variable, "").strip()
    if not text:
        allowed = f"the environment variable {variable} with the key in it"
        raise ConfigError(field, f"env:{variable}, which is not set", allowed)
    if not text.isascii() or not text.isprintable() or " " in text:
        allowed = "a key of printable ASCII characters without spaces"
        raise ConfigError(field, f"env:{variable}, which holds something else", allowed)
    return text


def config_file(environ: Mapping[str, str]) -> Path | None:
    """The settings file named by the environment, if any."""
    text = environ.get(CONFIG_FILE, "").strip()
    return Path(text).expanduser() if text else None


def cache_home(environ: Mapping[str, str]) -> Path | None:
    """The folder for caches that the desktop standard names, if it is set.

    Source: XDG Base Directory Specification 0.8: relative paths are invalid and ignored.
    """
    folder = Path(environ.get("XDG_CACHE_HOME", ""))
    return folder / "headrace" if folder.is_absolute() else None


def is_debugging(environ: Mapping[str, str]) -> bool:
    """Whether tracebacks are wanted; asked before settings can be read."""
    wanted: LogLevel = "debug"
    return environ.get(LOG_LEVEL, "").strip().lower() == wanted


def find_unknown(environ: Mapping[str, str]) -> list[str]:
    """Describe variables that start with HEADRACE_ and that nobody reads, with near names."""
    known = {variable.name.removeprefix(PREFIX): variable.name for variable in VARIABLES}
    all_names = ", ".join(known.values())
    warnings = []
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and rest not in known:
            hint = did_you_mean(name, known.values(), most=2) or f"Known: {all_names}."
            warnings.append(f"environment variable {name} is not read by headrace. {hint}")
    return warnings
