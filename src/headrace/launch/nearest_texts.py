"""NearestTexts: vectors of texts by an encoder on this machine, and which of them are near.

In: texts, one at a time. Out: unit vectors, and the keys of a scope by their cosine. An encoder
runs in one thread beside the event loop; comparing is a product of a matrix with a vector.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from headrace.core.config import Config
from headrace.core.errors import ConfigError
from headrace.engine.encoder_model import EncoderModel
from headrace.hub.model_store import ModelStore
from headrace.launch.backends import find_model
from headrace.launch.encoder_backend import open_encoder
from headrace.launch.model_kind import is_encoder

Vector = NDArray[np.float32]
_FIRST_ROWS = 8


class _Scope:
    """Rows of one scope, without gaps."""

    def __init__(self, size: int) -> None:
        self.keys: list[str] = []
        self.places: dict[str, int] = {}
        self.rows = np.zeros((_FIRST_ROWS, size), np.float32)

    def add(self, key: str, vector: Vector) -> None:
        place = self.places.get(key)
        if place is None:
            place = len(self.keys)
            if place == len(self.rows):
                self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self.keys.append(key)
            self.places[key] = place
        self.rows[place] = vector

    def remove(self, key: str) -> None:
        place = self.places.pop(key)
        last = self.keys.pop()
        if last != key:
            self.keys[place], self.places[last] = last, place
            self.rows[place] = self.rows[len(self.keys)]


class NearestTexts:
    """See router.semantic_cache.TextIndex. Belongs to one event loop; `close` it at the end."""

    def __init__(self, encoder: EncoderModel) -> None:
        self._encoder = encoder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="headrace-nearest")
        self._scopes: dict[str, _Scope] = {}

    async def vector(self, text: str) -> Vector:
        """See TextIndex."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self.encode, text)

    def encode(self, text: str) -> Vector:
        """The unit vector of a text; of a long one that of its beginning. Raises: HeadraceError."""
        (sequence,) = self._encoder.tokenize([text], truncate=-1)
        pooling = self._encoder.facts.sentence.pooling
        (found,) = self._encoder.runner.vectors([sequence], [pooling])
        length = float(np.linalg.norm(found))
        unit: Vector = found / length if length else found
        return unit

    def nearest(self, scope: str, vector: Vector, limit: int) -> Sequence[tuple[str, float]]:
        """See TextIndex."""
        known = self._scopes.get(scope)
        if known is None:
            return ()
        cosines = known.rows[: len(known.keys)] @ vector
        order = np.argsort(-cosines)[:limit]
        return [(known.keys[place], float(cosines[place])) for place in order.tolist()]

    def add(self, scope: str, key: str, vector: Vector) -> None:
        """See TextIndex."""
        self._scopes.setdefault(scope, _Scope(len(vector))).add(key, vector)

    def remove(self, scope: str, key: str) -> None:
        """See TextIndex."""
        known = self._scopes[scope]
        known.remove(key)
        if not known.keys:
            del self._scopes[scope]

    def close(self) -> None:
        """End the thread. Calling it twice is harmless."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def open_nearest_texts(config: Config, encoder: str, field: str) -> NearestTexts:
    """Load an encoder, fetched first where it is not here. `field` is the setting that names it.

    Raises: ConfigError, ModelNotFound, ModelSourceError, ModelFileError, OutOfMemory.
    """
    local = find_model(ModelStore(config.hub), encoder, may_pull=True)
    if not is_encoder(local.path):
        raise ConfigError(field, encoder, "an encoder, such as all-minilm-l6-v2")
    model = open_encoder(local, config)
    if model.facts.config.labels:
        raise ConfigError(field, encoder, "an encoder that makes vectors; this one classifies")
    return NearestTexts(model)
