"""ModelBuilds: what answers for each model: its file's digest and the engine around it.

In: models as they are opened. Out: ModelBuilds for receipts. A digest that no manifest has is made
in a thread of its own, which delays nobody; until then it is None.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.core.backend import Backend
from headrace.core.receipt import ModelBuild
from headrace.core.version import headrace_version
from headrace.hub.digests import model_digest
from headrace.hub.model_store import LocalModel

logger = logging.getLogger(__name__)

MEMORY_NAME = "model-digests.json"


class _Closing(Exception):
    """The server stops: no digest is wanted any more."""


class ModelBuilds:
    """Filled by whoever opens engines; `find` may be called from any thread."""

    def __init__(self, home: Path) -> None:
        self._memory = home / MEMORY_NAME
        self._builds: dict[str, ModelBuild] = {}
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()

    def find(self, model: str) -> ModelBuild | None:
        """The build of a model, by the backend's name of it."""
        return self._builds.get(model)

    def add(self, local: LocalModel, environment: Mapping[str, Any]) -> None:
        """Tell of a model that was opened; `environment` is its engine's."""
        self._builds[local.name] = ModelBuild(
            file=local.path.name,
            sha256=local.sha256,
            version=headrace_version(),
            kernels=str(environment["ops"]),
            kv_cache_dtype=str(environment["kv_cache_dtype"]),
        )
        if local.sha256 is None:
            thread = threading.Thread(
                target=self._digest, args=(local,), name="headrace-digest", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def wait(self) -> None:
        """Wait until every digest is known."""
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Stop what is still being read. Calling it twice is harmless."""
        self._closing.set()
        self.wait()

    def _digest(self, local: LocalModel) -> None:
        try:
            digest = model_digest(local.path, self._memory, self._check)
        except _Closing:
            return
        except OSError as error:
            logger.warning("%s has no digest in receipts: %s", local.path.name, error)
            return
        self._builds[local.name] = replace(self._builds[local.name], sha256=digest)

    def _check(self) -> None:
        if self._closing.is_set():
            raise _Closing


def with_adapter(builds: ModelBuilds, backend: Backend, name: str) -> ModelBuild | None:
    """What answers for a name: a model's build, with the adapter that the name stands for."""
    adapter = next((info for info in backend.models() if info.name == name and info.parent), None)
    if adapter is None:
        return builds.find(name)
    build = builds.find(adapter.parent or "")
    if build is None:
        return None
    return replace(build, adapter=name, adapter_sha256=adapter.adapter_sha256)
