"""Errors about settings in the words of whoever gave them: a flag, a variable, a key of a file.

In: an error that names a setting (`engine.max_model_len`), the arguments, the environment. Out: the
same error, which names what was written. What nobody wrote keeps its name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from headrace.cli.settings import flag_name
from headrace.config import env
from headrace.config.load import FILE_FIELD, SECTIONS, load_keys
from headrace.core.engine_config import EngineConfig
from headrace.core.errors import (
    ConfigError,
    InvalidParameter,
    ModelNotFound,
    UnsupportedParameter,
)

CONFIG_FLAG = "--config"
# Flags that say something else than the value of their setting.
_OTHER_FLAGS = ("--quiet", "--allow-runtime-adapters")
# Commands whose help calls a model so.
_NAMED_BY_NAME = {"pull", "rm"}
# What help pages call the arguments.
_ARGUMENTS = {
    "name": "NAME",
    "key": "NAME",
    "budget": "ID",
    "workload": "WORKLOAD",
    "price file": "FILE",
}
_OF_ENGINES = {field.name for field in fields(EngineConfig)}
_SHORT = {"--model": "-m"}
_MODEL_FLAGS = {"--model": "--model", "-m": "--model", "--draft-model": "--draft-model"}
_SETTING = re.compile(rf"\b(?:{'|'.join(SECTIONS)})\.\w+")


def in_words(
    error: ConfigError | InvalidParameter | UnsupportedParameter | ModelNotFound,
    arguments: Sequence[str],
    environ: Mapping[str, str],
) -> str:
    """What the command line is told."""
    if isinstance(error, ModelNotFound):
        return _with_flag(error, arguments)
    if isinstance(error, UnsupportedParameter):
        flag = _flag_of(error.param, arguments)
        return error.message if flag is None else UnsupportedParameter(flag, error.reason).message
    # Who types flags and files leaves a thing out, and writes no None.
    told = as_given(error, arguments, environ).message
    return told.replace(" is None; allowed:", " is not given; allowed:", 1)


def as_given(
    error: ConfigError | InvalidParameter, arguments: Sequence[str], environ: Mapping[str, str]
) -> ConfigError | InvalidParameter:
    """The error in words of the command line."""
    if isinstance(error, InvalidParameter):
        flag = _flag_of(error.param, arguments)
        if flag is None:
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


def _with_flag(error: ModelNotFound, arguments: Sequence[str]) -> str:
    """The error behind the flag that named the model, where one did."""
    for name, value in _named_values(arguments):
        if name in _MODEL_FLAGS and value == error.model:
            return f"{_MODEL_FLAGS[name]}: {error.message}"
    return error.message


def _flag_of(param: str | None, arguments: Sequence[str]) -> str | None:
    """The flag that gave a parameter."""
    flag = "--" + (param or "").replace("_", "-")
    return flag if _is_given(flag, arguments) else None


def _written(field: str, arguments: Sequence[str], environ: Mapping[str, str]) -> str:
    """The flag or variable that gave a setting; its own name where there is none."""
    if field == FILE_FIELD:
        return CONFIG_FLAG if _is_given(CONFIG_FLAG, arguments) else env.CONFIG_FILE
    if field in _ARGUMENTS:
        return _ARGUMENTS[field]
    flag = flag_name(field)
    if _SETTING.fullmatch(field) and flag not in _OTHER_FLAGS and _is_given(flag, arguments):
        return flag
    variable, _ = env.read_environment(environ).get(field, (field, ""))
    return variable


def _is_given(flag: str, arguments: Sequence[str]) -> bool:
    names = [_split(word)[0] for word in _before_dashes(arguments)]
    return flag in names or _SHORT.get(flag) in names


def _before_dashes(arguments: Sequence[str]) -> Sequence[str]:
    """Behind `--` there are no flags."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _config_file(arguments: Sequence[str], environ: Mapping[str, str]) -> Path | None:
    found = env.config_file(environ)
    for name, value in _named_values(arguments):
        if name == CONFIG_FLAG:
            found = Path(value)
    return found


def _named_values(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Words with what is behind their `=`, or else with the next word."""
    for word, after in itertools.pairwise([*_before_dashes(arguments), ""]):
        name, value = _split(word)
        yield name, after if value is None else value


def _split(word: str) -> tuple[str, str | None]:
    """A flag and the value that is written in one word with it: `--model=M`, `-mM`."""
    for short in _SHORT.values():
        if word.startswith(short) and word != short:
            return short, word.removeprefix(short)
    name, mark, value = word.partition("=")
    return name, value if mark else None


def _has(file: Path, field: str) -> bool:
    """Whether the settings of a file have this one, or what it is a part of."""
    try:
        keys = load_keys(file)
    except ConfigError as error:
        return error.field == field != FILE_FIELD
    parts = [key for key in keys if "." in key]
    return field in keys or any(field.startswith((f"{key}.", f"{key}[")) for key in parts)
