"""Tags of a call: names that its costs are added up by, as headers give them."""

from __future__ import annotations

from collections.abc import Mapping

from headrace.core.errors import InvalidParameter

MAX_TAGS = 16
MAX_TAG_LENGTH = 64

_UNSAFE = frozenset('"\\')
# The second is that of LiteLLM's clients.
_HEADERS = ("x-headrace-tags", "x-litellm-tags")


def tags_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The tags, each once, in order of the alphabet. Raises: InvalidParameter."""
    for header in _HEADERS:
        if header in headers:
            return _read(header, headers[header])
    return ()


def _read(header: str, text: str) -> tuple[str, ...]:
    tags = sorted({tag.strip() for tag in text.split(",")} - {""})
    are_names = all(
        len(tag) <= MAX_TAG_LENGTH and tag.isprintable() and not _UNSAFE & set(tag) for tag in tags
    )
    if len(tags) > MAX_TAGS or not are_names:
        allowed = (
            f"at most {MAX_TAGS} names of at most {MAX_TAG_LENGTH} characters, without quotes and "
            "backslashes, with commas between"
        )
        raise InvalidParameter(header, text, allowed)
    return tuple(tags)
