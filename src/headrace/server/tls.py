"""TLS: the certificate of the settings as a context, or an error that says what is wrong."""

from __future__ import annotations

import ssl
from pathlib import Path

from headrace.core.config import ServerConfig
from headrace.core.errors import ConfigError


def load_certificate(config: ServerConfig) -> ssl.SSLContext | None:
    """Read certificate and key; None without them. TLS 1.2 is the oldest that is spoken.

    Raises: ConfigError.
    """
    if config.ssl_certfile is None:
        return None
    key = config.ssl_keyfile or config.ssl_certfile
    for field, path in (("server.ssl_certfile", config.ssl_certfile), ("server.ssl_keyfile", key)):
        try:
            path.read_bytes()
        except OSError as error:
            hint = f"{error.strerror}."
            raise ConfigError(field, str(path), "a PEM file that can be read", hint) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, _refuse_password)
    except _Encrypted:
        allowed = "a private key without a password"
        hint = "`openssl pkey -in FILE -out NEWFILE` takes it off."
        raise ConfigError("server.ssl_keyfile", str(key), allowed, hint) from None
    except (ssl.SSLError, OSError) as error:
        raise _say_which(config.ssl_certfile, config.ssl_keyfile, error) from None
    return context


def _say_which(certificate: Path, key: Path | None, error: OSError) -> ConfigError:
    """OpenSSL has the same words for a file that is no certificate and one that is no key."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except (ssl.SSLError, OSError):
        allowed, hint = "a certificate chain in PEM", "No certificate can be read in it."
        return ConfigError("server.ssl_certfile", str(certificate), allowed, hint)
    if key is None:
        allowed = "a certificate chain and its private key in PEM"
        hint = "Put the key into this file, or name the file that holds it in server.ssl_keyfile."
        return ConfigError("server.ssl_certfile", str(certificate), allowed, hint)
    allowed = "the private key in PEM of the certificate in server.ssl_certfile"
    return ConfigError("server.ssl_keyfile", str(key), allowed, f"{error}.")


class _Encrypted(Exception):
    """A key that would make the server ask for its password on the terminal."""


def _refuse_password() -> str:
    raise _Encrypted
