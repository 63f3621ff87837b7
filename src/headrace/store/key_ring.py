"""Secrets: how they are made, hashed, and found again. Knows no database.

A secret is `hr_ID_RANDOM`: the id finds the key, the whole is compared by its SHA-256. A slow hash
would protect guessable passwords; 256 random bits cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from headrace.core.clock import Clock, SystemClock
from headrace.core.frozen import frozen
from headrace.core.stores import ApiKey

_ID_BYTES = 5
_RANDOM_BYTES = 32
# Compared with when the id is unknown, so that both cases take the same time.
_NO_DIGEST = bytes(32)


@frozen
class StoredKey:
    """A key and the digest of its secret."""

    key: ApiKey
    digest: bytes


def make_secret() -> tuple[str, str]:
    """A new id and the secret that holds it."""
    key_id = secrets.token_hex(_ID_BYTES)
    return key_id, f"hr_{key_id}_{secrets.token_urlsafe(_RANDOM_BYTES)}"


def hash_secret(secret: str) -> bytes:
    """What is stored in place of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class StoredKeys:
    """A KeyRing over the keys that were read last. A change makes a new one; time passes in it."""

    def __init__(self, keys: Iterable[StoredKey], clock: Clock | None = None) -> None:
        stored = list(keys)
        self.is_open = not stored
        self._clock = clock or SystemClock()
        self._keys = {entry.key.id: entry for entry in stored if entry.key.revoked_at_s is None}

    @property
    def are_all_ended(self) -> bool:
        """See core.stores.KeyRing."""
        now_s = self._clock.unix_s()
        return not self.is_open and not any(
            entry.key.is_in_use(now_s) for entry in self._keys.values()
        )

    def find(self, secret: str) -> ApiKey | None:
        """See core.stores.KeyRing."""
        name, _, rest = secret.partition("_")
        entry = self._keys.get(rest.partition("_")[0]) if name == "hr" else None
        is_right = hmac.compare_digest(
            hash_secret(secret), entry.digest if entry is not None else _NO_DIGEST
        )
        if entry is None or not is_right or not entry.key.is_in_use(self._clock.unix_s()):
            return None
        return entry.key
