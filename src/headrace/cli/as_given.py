"""Errors about settings in the words of whoever gave them: a flag, a variable, a key of a file.

In: an error that names a setting (`engine.max_model_len`), the arguments, the environment. Out: the
same error, which names what was written. What nobody wrote keeps its name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from headrace.cli.settings import flag_name
from headrace.config import env
from headrace.config.load import FILE_FIELD, SECTIONS, load_keys
from headrace.core.engine_config import EngineConfig
from headrace.core.errors import ConfigError, InvalidParameter

CONFIG_FLAG = "--config"
# Flags that say something else than the value of their setting.
_OTHER_FLAGS = ("--quiet", "--require-key", "--allow-runtime-adapters")
# Commands whose help calls a model so.
_NAMED_BY_NAME = {"pull", "rm"}
_OF_ENGINES = {field.name for field in fields(EngineConfig)}
_SHORT = {"--model": "-m"}
_SETTING = re.compile(rf"\b(?:{'|'.join(SECTIONS)})\.\w+")


def as_given(
    error: ConfigError | InvalidParameter, arguments: Sequence[str], environ: Mapping[str, str]
) -> ConfigError | InvalidParameter:
    """The error in words of the command line."""
    if isinstance(error, InvalidParameter):
        flag = "--" + (error.param or "").replace("_", "-")
        if not _is_given(flag, arguments):
            if error.param != "model":
                return error
            flag = "NAME" if set(arguments[:1]) & _NAMED_BY_NAME else "MODEL"
        return InvalidParameter(flag, error.value, error.allowed, error.hint)
    file = _config_file(arguments, environ)
    # Kernels know what they are set to, and no sections.
    is_bare = type(error) is ConfigError and error.field in _OF_ENGINES
    field = f"engine.{error.field}" if is_bare else error.field
    written = _written(field, arguments, environ)
    if written == field and file is not None and _has(file, field):
        written = f"{file}: {field}"

    def rewritten(text: str) -> str:
        return _SETTING.sub(lambda found: _written(found[0], arguments, environ), text)

    return type(error)(written, error.value, rewritten(error.allowed), rewritten(error.hint))


def _written(field: str, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """The flag or variable that gave a setting; its own name where there is none."""
    flag = flag_name(field)
    if _SETTING.fullmatch(field) and flag not in _OTHER_FLAGS and _is_given(flag, arguments):
        return flag
    variable, _ = env.read_environment(environ).get(field, (field, ""))
    return variable


def _is_given(flag: str, arguments: Sequence[str]) -> bool:
    words = [word.partition("=")[0] for word in _before_dashes(arguments)]
    return flag in words or _SHORT.get(flag) in words


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    """Behind `--` there are no flags."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _config_file(arguments: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    found = env.config_file(environ)
    for word, after in itertools.pairwise([*_before_dashes(arguments), ""]):
        name, mark, value = word.partition("=")
        if name == CONFIG_FLAG:
            found = Path(value if mark else after)
    return found


def _has(file: Path, field: str) -> bool:
    """Whether the settings of a file have this one, or what it is a part of."""
    try:
        keys = load_keys(file)
    except ConfigError as error:
        return error.field == field != FILE_FIELD
    parts = [key for key in keys if "." in key]
    return field in keys or any(field.startswith((f"{key}.", f"{key}[")) for key in parts)
