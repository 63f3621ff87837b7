"""Built tokenizers on disk, so that a second start skips building.

Two files per key, whole and in parts: a JSON line with the facts and what describes the body, then
the body, a tokenizer.json or what PartialTokenizer reads. In: folder and key. Out: a tokenizer and
the model's facts about it, or None when there are none that can be trusted. A damaged file is
treated as missing and is written again. Files appear by rename, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import zlib
from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path

import tokenizers
from tokenizers import Tokenizer

from headrace.text.partial_tokenizer import PartialTokenizer, cut_line, split_tokenizer
from headrace.text.tokenizer_facts import TokenizerFacts, facts_as_json, facts_from_json

_LOGGER = logging.getLogger(__name__)
# Raise it when the way tokenizers are built changes.
_FORMAT = 2


def cache_path(cache_dir: Path, key: str, kind: str = "tokenizer") -> Path:
    """The file of a key: a "tokenizer", or a "vocabulary" in parts. Keys may be any text."""
    return cache_dir / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.{kind}"


def load_cached(cache_dir: Path, key: str) -> tuple[Tokenizer, TokenizerFacts] | None:
    """The cached tokenizer and its facts, or None."""
    path = cache_path(cache_dir, key)
    found = _read(path, key)
    if found is None:
        return None
    try:
        return Tokenizer.from_buffer(bytes(found[0])), found[1]
    except Exception as error:  # tokenizers raises bare Exception
        _LOGGER.warning("tokenizer cache %s cannot be loaded (%s); building anew", path, error)
        return None


def store_cached(cache_dir: Path, key: str, tokenizer: Tokenizer, facts: TokenizerFacts) -> None:
    """Write the tokenizer; a full or read-only disk costs a warning, not the start."""
    _write(cache_path(cache_dir, key), key, tokenizer.to_str(pretty=False).encode(), facts)


def load_parts(
    cache_dir: Path, key: str, load_whole: Callable[[], Tokenizer]
) -> tuple[PartialTokenizer, TokenizerFacts] | None:
    """A tokenizer that reads what it needs from the cache, and its facts; or None."""
    found = _read(cache_path(cache_dir, key, "vocabulary"), key)
    return None if found is None else (PartialTokenizer(found[0], load_whole), found[1])


def store_parts(cache_dir: Path, key: str, tokenizer: Tokenizer, facts: TokenizerFacts) -> None:
    """Write what `load_parts` reads, as `store_cached` does."""
    _write(cache_path(cache_dir, key, "vocabulary"), key, split_tokenizer(tokenizer), facts)


def forget(cache_dir: Path, key: str) -> int:
    """Delete what is kept for a key; returns the bytes freed."""
    num_bytes = 0
    for kind in ("tokenizer", "vocabulary"):
        path = cache_path(cache_dir, key, kind)
        if path.is_file():
            num_bytes += path.stat().st_size
            path.unlink()
    return num_bytes


def _read(path: Path, key: str) -> tuple[memoryview, TokenizerFacts] | None:
    """The body where it lies in the mapped file, and the facts."""
    try:
        with path.open("rb") as file:
            content = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))
    except FileNotFoundError:
        return None
    except ValueError:  # an empty file
        content = memoryview(b"")
    except OSError as error:
        _LOGGER.warning("tokenizer cache %s cannot be read (%s); building anew", path, error)
        return None
    head, body = cut_line(content)
    try:
        facts = facts_from_json(json.loads(head)["facts"])
    except (ValueError, KeyError, TypeError):
        facts = None
    if facts is None or head != _head(key, body, facts):
        _LOGGER.warning("tokenizer cache %s is damaged or of another version; building anew", path)
        return None
    return body, facts


def _write(path: Path, key: str, body: bytes, facts: TokenizerFacts) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_head(key, body, facts) + b"\n" + body)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        _LOGGER.warning("tokenizer cache %s cannot be written: %s", path, error)


def _head(key: str, body: bytes | memoryview, facts: TokenizerFacts) -> bytes:
    stated = facts_as_json(facts)
    head = {
        "format": _FORMAT,
        "tokenizers": tokenizers.__version__,
        "key": key,
        "length": len(body),
        "crc32": zlib.crc32(body, zlib.crc32(json.dumps(stated).encode())),
        "facts": stated,
    }
    return json.dumps(head).encode()
