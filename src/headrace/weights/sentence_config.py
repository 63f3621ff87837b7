"""SentenceConfig: how a folder of sentence-transformers makes a vector of a text.

In: modules.json and the files that it names, config_sentence_transformers.json. Out: one frozen
record. A folder without them gives the mean of all tokens. Knows nothing of weights.
Source: sentence-transformers, SentenceTransformer.save and models.Pooling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Any

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen
from headrace.core.request import Pooling

_POOLINGS: Mapping[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_MAX_JSON_BYTES = 1 << 24
# Each kind of encoder had a name of its own once.
_TEXT_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "xlm-roberta")
)


@frozen
class SentenceConfig:
    """Units: `max_seq_length` in tokens, None where the folder sets none.

    `prompts` are texts by name that may go before an input; `default_prompt_name` is the one that
    does where none is asked for. `is_lowered`: texts are lower-cased before they are tokenized.
    """

    pooling: Pooling = "mean"
    is_normalized: bool = False
    max_seq_length: int | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    is_lowered: bool = False


def read_sentence_config(folder: Path) -> SentenceConfig:
    """Read what the folder says. Raises: ModelFileError, UnsupportedFormat."""
    modules = _read(folder, "modules.json")
    own = _read(folder, "config_sentence_transformers.json")
    text = next((found for name in _TEXT_FILES if (found := _read(folder, name)) is not None), None)
    pooling: Pooling = "mean"
    is_normalized = False
    for module in modules if isinstance(modules, list) else []:
        if not isinstance(module, dict):
            raise ModelFileError(f"{folder / 'modules.json'} has {module!r}; it needs objects.")
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = _read_pooling(folder, _inside(folder, module.get("path")))
        elif kind == "Normalize":
            is_normalized = True
        elif kind != "Transformer":
            raise UnsupportedFormat(
                f"{folder / 'modules.json'} has a module {kind!r}; headrace runs Transformer, "
                "Pooling and Normalize."
            )
    prompts = own.get("prompts") if isinstance(own, dict) else None
    default = own.get("default_prompt_name") if isinstance(own, dict) else None
    text = text if isinstance(text, dict) else {}
    limit = text.get("max_seq_length")
    return SentenceConfig(
        pooling=pooling,
        is_normalized=is_normalized,
        max_seq_length=limit if isinstance(limit, int) and limit > 0 else None,
        prompts={str(k): str(v) for k, v in prompts.items()} if isinstance(prompts, dict) else {},
        default_prompt_name=default if isinstance(default, str) else None,
        is_lowered=bool(text.get("do_lower_case")),
    )


def language_model_sentence(path: Path) -> SentenceConfig:
    """What a language model's folder says of vectors; others give the last state, of length 1.

    Raises: ModelFileError, UnsupportedFormat.
    """
    if path.is_dir() and (path / "modules.json").is_file():
        found = read_sentence_config(path)
        if found.is_lowered:
            raise UnsupportedFormat(
                f"{path} has do_lower_case = true, which headrace obeys for encoders only."
            )
        return found
    return SentenceConfig(pooling="last", is_normalized=True)


def _read_pooling(folder: Path, path: str) -> Pooling:
    config = _read(folder, f"{path}/config.json")
    if not isinstance(config, dict):
        raise ModelFileError(f"{folder / path} has no config.json that says how to pool.")
    if isinstance(config.get("pooling_mode"), str):  # the newer spelling: one word
        config = {f"pooling_mode_{_WORDS.get(config['pooling_mode'], 'other')}": True}
    wanted = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    if len(wanted) != 1 or wanted[0] not in _POOLINGS:
        raise UnsupportedFormat(
            f"{folder / path / 'config.json'} pools by {', '.join(wanted) or 'nothing'}; headrace "
            f"runs one of {', '.join(_POOLINGS)}."
        )
    if config.get("include_prompt") is False:
        raise UnsupportedFormat(
            f"{folder / path / 'config.json'} has include_prompt = false; headrace pools over "
            "prompts too."
        )
    return _POOLINGS[wanted[0]]


_WORDS = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}


def _inside(folder: Path, path: object) -> str:
    """A module's place, which must not lead out of its folder. Raises: ModelFileError."""
    plain = PurePosixPath(path) if isinstance(path, str) else None
    if plain is None or plain.is_absolute() or ".." in plain.parts:
        raise ModelFileError(f"{folder / 'modules.json'} has path = {path!r}; it needs a folder.")
    return str(plain)


def _read(folder: Path, name: str) -> Any:
    path = folder / name
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ModelFileError(f"{path} has more than {_MAX_JSON_BYTES} bytes.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is not JSON: {error}.") from error
