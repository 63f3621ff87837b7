"""Endpoint: where an HTTP API lives, taken apart once and checked.

In: an address as people write it. Out: a frozen record. Opens nothing.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

_ALLOWED_URL = "an http or https address such as http://127.0.0.1:8000/v1"


@frozen
class Endpoint:
    """Where an API lives. `path` has no slash at its end."""

    host: str
    port: int
    path: str
    is_tls: bool

    @property
    def authority(self) -> str:
        """The Host header: the port is named unless it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.path}"


def parse_endpoint(url: str, field: str = "--url", key_field: str = "--api-key-env") -> Endpoint:
    """Take an address apart. One without a path gets `/v1`, where OpenAI's API lives.

    Raises: ConfigError naming `field`; `key_field` is where keys belong.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(field, url, _ALLOWED_URL, f"{error}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(field, url, _ALLOWED_URL)
    if parts.username is not None or parts.password is not None:
        hint = f"Give keys by {key_field}, not in the address."
        raise ConfigError(field, f"{parts.scheme}://...@{parts.hostname}", _ALLOWED_URL, hint)
    if parts.query or parts.fragment or not url.isascii() or any(map(str.isspace, url)):
        hint = "It has no query, no fragment and no space."
        raise ConfigError(field, url, _ALLOWED_URL, hint)
    is_tls = parts.scheme == "https"
    if port == 0:
        raise ConfigError(field, url, _ALLOWED_URL, "Port 0 is no address.")
    path = parts.path.rstrip("/") or "/v1"
    return Endpoint(parts.hostname, port or (443 if is_tls else 80), path, is_tls)
