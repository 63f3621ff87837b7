"""YAML text to settings, strictly: unknown keys, wrong types and repeated keys are errors.

In: a file, or dotted settings with plain values. Out: checked values, then `Config`. What a field
accepts is read from its annotation: a new setting is one field in `core.config`, nothing here.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from headrace.core.config import (
    Config,
    EconomicsConfig,
    EngineConfig,
    HubConfig,
    ServerConfig,
    StoreConfig,
)
from headrace.core.errors import ConfigError
from headrace.core.near_names import did_you_mean
from headrace.core.units import parse_bytes

MAX_FILE_BYTES = 1024**2
# What errors about a whole file name.
FILE_FIELD = "config file"
_Section = (
    type[EngineConfig]
    | type[HubConfig]
    | type[ServerConfig]
    | type[StoreConfig]
    | type[EconomicsConfig]
)
SECTIONS: dict[str, _Section] = {
    "engine": EngineConfig,
    "hub": HubConfig,
    "server": ServerConfig,
    "store": StoreConfig,
    "economics": EconomicsConfig,
}
# Of names and lists, not of settings: `config.routing` reads them.
ROUTING_SECTIONS = ("upstreams", "tiers", "routing")
ALL_SECTIONS = (*SECTIONS, *ROUTING_SECTIONS)
_ALLOWED = f"a map with {', '.join(ALL_SECTIONS)}"
_KINDS: dict[type, str] = {list: "list", str: "text"}
# What others call a choice of ours.
_OTHER_WORDS = {"gpu": "cuda", "nvidia": "cuda"}
_BOOLEAN_TEXTS = {"1": True, "true": True, "yes": True, "on": True}
_BOOLEAN_TEXTS |= {"0": False, "false": False, "no": False, "off": False}


class SettingNameError(ConfigError):
    """A key that names no setting, or names one twice. `hint`: what was meant, before the rest."""

    def __init__(self, name: str, problem: str, allowed: str, hint: str = "") -> None:
        super().__init__(name, problem, allowed, hint)
        after = f". {hint} Allowed" if hint else "; allowed"
        self.args = (f"{name} is {problem}{after}: {allowed}.",)


def load_settings(path: Path) -> dict[str, object]:
    """Read a YAML file into dotted settings: `{"engine.num_threads": 4}`.

    Raises: ConfigError for a file that cannot be read, is not YAML, or names unknown settings.
    """
    return flatten(_load_tree(path))


def load_keys(path: Path) -> list[str]:
    """Sections and settings of a file as they are written, known or not.

    Raises: ConfigError for a file that cannot be read.
    """
    keys = []
    for section, values in _load_tree(path).items():
        inside = values if isinstance(values, Mapping) else ()
        keys += [str(section), *(f"{section}.{key}" for key in inside)]
    return keys


def has_routing(path: Path) -> bool:
    """Whether the same file has tiers. Raises: ConfigError."""
    tree = _load_tree(path)
    return any(section in tree for section in ROUTING_SECTIONS)


def _load_tree(path: Path) -> Mapping[Any, Any]:
    """The sections of a file. Raises: ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            FILE_FIELD, str(path), "a readable YAML file", f"{error.strerror}."
        ) from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(FILE_FIELD, str(path), f"at most {MAX_FILE_BYTES} bytes")
    # Costs as much as all settings together, and most starts have no file.
    read_yaml = importlib.import_module("headrace.config.yaml_text").read_yaml
    try:
        tree = read_yaml(raw)
    except ValueError as error:
        raise ConfigError(FILE_FIELD, str(path), "YAML text", str(error)) from None
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        hint = f"It has a {_KINDS.get(type(tree), 'single value')}."
        raise ConfigError(FILE_FIELD, str(path), _ALLOWED, hint)
    return tree


def flatten(tree: object) -> dict[str, object]:
    """Turn `{"engine": {"num_threads": 4}}` into `{"engine.num_threads": 4}`; names are checked."""
    if not isinstance(tree, Mapping):
        raise ConfigError("settings", type(tree).__name__, _ALLOWED)
    settings: dict[str, object] = {}
    for section, values in tree.items():
        if section in ROUTING_SECTIONS:
            continue
        if section not in SECTIONS:
            raise unknown_name(str(section), "section", list(ALL_SECTIONS))
        if values is None:
            continue
        if not isinstance(values, Mapping):
            raise ConfigError(section, values, "a map of settings")
        for key, value in values.items():
            setting = f"{section}.{key}"
            check_name(setting)
            settings[setting] = value
    return settings


def check_name(setting: str) -> None:
    """Raises: ConfigError, with near names, unless `setting` is `section.field`."""
    section, _, name = setting.partition(".")
    if section not in SECTIONS:
        raise unknown_name(section, "section", list(SECTIONS))
    names = [field.name for field in fields(SECTIONS[section])]
    if name not in names:
        raise unknown_name(setting, "setting", [f"{section}.{known}" for known in names])


def convert(setting: str, value: object, shown_as: str | None = None) -> object:
    """Bring a value from YAML, the environment or a flag to the type of its field.

    Text is read as a number, truth value or size where the field is one. `shown_as` is the name for
    errors, such as that of an environment variable.
    Raises: ConfigError.
    """
    section, _, name = setting.partition(".")
    hint = get_type_hints(SECTIONS[section])[name]
    shown = shown_as or setting
    if name.endswith("_bytes") and value is not None:
        if not isinstance(value, str | int):
            raise ConfigError(shown, value, "a size such as 2GiB")
        return parse_bytes(value, shown)
    return convert_to(hint, value, shown)


def build_config(settings: Mapping[str, object]) -> Config:
    """Make the records from dotted settings that are converted.

    Raises: ConfigError for a value out of range.
    """
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for setting, value in settings.items():
        section, _, name = setting.partition(".")
        values[section][name] = value
    return Config(
        engine=EngineConfig(**values["engine"]),
        hub=HubConfig(**values["hub"]),
        server=ServerConfig(**values["server"]),
        store=StoreConfig(**values["store"]),
        economics=EconomicsConfig(**values["economics"]),
    )


def convert_to(hint: Any, value: object, shown: str) -> object:
    """Bring a value to the type of an annotation. Raises: ConfigError."""
    if get_origin(hint) in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = [choice for choice in get_args(hint) if choice is not type(None)]
    if get_origin(hint) is Literal:
        return _to_choice(get_args(hint), value, shown)
    if get_origin(hint) is tuple:
        return _to_texts(value, shown)
    return _TO_PLAIN[hint](value, shown)


def _to_choice(choices: tuple[str, ...], value: object, shown: str) -> str:
    if isinstance(value, bool):
        # YAML reads the words on and off as booleans.
        text: object = "on" if value else "off"
    else:
        text = value.strip().lower() if isinstance(value, str) else value
    if text not in choices:
        allowed = f"one of {', '.join(choices)}"
        meant = _OTHER_WORDS.get(str(text), text)
        raise ConfigError(shown, value, allowed, did_you_mean(meant, choices, most=1))
    return str(text)


def _to_texts(value: object, shown: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ConfigError(shown, value, "a text or a list of texts")
    return tuple(value)


def _to_boolean(value: object, shown: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in _BOOLEAN_TEXTS:
        return _BOOLEAN_TEXTS[value.strip().lower()]
    raise ConfigError(shown, value, "true or false")


def _to_integer(value: object, shown: str) -> int:
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(shown, value, "a whole number")
    return value


def _to_number(value: object, shown: str) -> float:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise ConfigError(shown, value, "a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(shown, value, "a number")
    return float(value)


def _to_text(value: object, shown: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(shown, value, "a text")
    return value


def _to_path(value: object, shown: str) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(shown, value, "a path")
    return Path(value).expanduser().absolute()


_TO_PLAIN: dict[type, Any] = {
    bool: _to_boolean,
    int: _to_integer,
    float: _to_number,
    str: _to_text,
    Path: _to_path,
}


def unknown_name(name: str, kind: str, known: list[str]) -> SettingNameError:
    """The error of a key that nobody reads."""
    return SettingNameError(name, f"no {kind}", ", ".join(known), did_you_mean(name, known))
