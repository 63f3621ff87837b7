"""Price files: what is built in, and what a person adds, as one PriceBook.

In: files in headrace's YAML, the JSON of genai-prices or of LiteLLM. Out: prices in order of
precedence: the files as they are named, then what is built in. Opens no connection, ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from headrace.config.yaml_text import decode_text, read_yaml
from headrace.core.errors import ConfigError
from headrace.economics.price_tables import PriceTable, read_genai_prices, read_litellm
from headrace.economics.price_yaml import read_price_yaml
from headrace.economics.prices import PriceBook

MAX_PRICE_FILE_BYTES = 64 * 1024**2
BUILT_IN = Path(__file__).with_name("builtin_prices.json")


def open_price_book(files: Sequence[Path], stale_after_days: int = 365) -> PriceBook:
    """The prices of files, then the built-in ones. Raises: ConfigError."""
    tables = [read_price_file(path).prices for path in files]
    return PriceBook([*tables, built_in().prices], stale_after_days)


@cache
def built_in() -> PriceTable:
    """The dated prices that come with headrace."""
    return read_price_file(BUILT_IN)


def read_price_file(path: Path) -> PriceTable:
    """Read a file of any of the three kinds. Raises: ConfigError."""
    where = path.name
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_PRICE_FILE_BYTES + 1)
    except OSError as error:
        allowed = "a readable price file"
        raise ConfigError("price file", str(path), allowed, f"{error.strerror}.") from None
    if len(raw) > MAX_PRICE_FILE_BYTES:
        raise ConfigError("price file", str(path), f"at most {MAX_PRICE_FILE_BYTES} bytes")
    if path.suffix in (".yaml", ".yml"):
        return read_price_yaml(_decode_yaml(raw, where), where)
    tree = _decode_json(raw, where)
    if isinstance(tree, list) or (isinstance(tree, dict) and "providers" in tree):
        return read_genai_prices(tree, where)
    if isinstance(tree, dict):
        return read_litellm(tree, where)
    raise ConfigError("price file", where, "YAML, or the JSON of genai-prices or LiteLLM")


def _decode_yaml(raw: bytes, where: str) -> Any:
    try:
        return read_yaml(raw, is_exact=True) or {}
    except ValueError as error:
        raise ConfigError("price file", where, "YAML text", str(error)) from None


def _decode_json(raw: bytes, where: str) -> Any:
    try:
        return json.loads(decode_text(raw), parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        allowed = "JSON text; YAML where the name ends in .yaml or .yml"
        raise ConfigError("price file", where, allowed, str(error)) from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no price")
