"""The listening socket of a server. Imports nothing of the server, which loads later."""

from __future__ import annotations

import errno
import socket

from headrace.core.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """Open the listening socket; port 0 takes a free one.

    Raises: ConfigError that says why the address cannot be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            "server.host", host, "an address of this machine", f"{error.strerror or error}."
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _address_error(host, port, error) from None
    return listener


def _address_error(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        hint = f"Something listens on {host}:{port} already; stop it, or choose another --port."
        return ConfigError("server.port", port, "a free port", hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigError("server.port", port, "a port this user may open, such as 8000")
    return ConfigError("server.host", host, "an address of this machine", f"{error.strerror}.")
