"""What every route is given: the backend, its models under their served names, limits, clock.

In: whatever the composition root joins. Out: one frozen record; routes receive it as an argument.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

from starlette.datastructures import QueryParams
from starlette.types import Receive

from headrace.core.backend import Backend, Health, ModelInfo, health_of
from headrace.core.batches import BatchStore
from headrace.core.clock import Clock, SystemClock
from headrace.core.config import ServerConfig
from headrace.core.errors import CapacityError, ModelNotFound, RequestError
from headrace.core.files import FileStore
from headrace.core.frozen import frozen
from headrace.core.receipt import ModelBuild
from headrace.core.stores import Caller
from headrace.core.telemetry import Metric, MetricSink
from headrace.economics.accounts import Accounts
from headrace.economics.metered import Metered
from headrace.server.body_room import BodyRoom, BodyShare
from headrace.server.call_notes import CallNotes
from headrace.server.error_responses import HttpRefusal
from headrace.server.first_answers import FirstAnswers
from headrace.server.kept_responses import KeptResponses
from headrace.server.lifetime import Lifetime
from headrace.server.replies import warning_headers
from headrace.server.response_runs import ResponseRuns

NOT_READY_RETRY_AFTER_S = 5.0

# By the backend's name of a model; None where nobody knows what answers.
BuildOf = Callable[[str], ModelBuild | None]


@frozen
class Storage:
    """What callers keep here beyond an answer."""

    files: FileStore
    batches: BatchStore
    close: Callable[[], None]


class StorageDoor(Protocol):
    """Opens the storage when it is first needed: most servers never do."""

    def exists(self) -> bool:
        """Whether there may be something in it. Blocks."""
        ...

    @property
    def opened(self) -> Storage | None:
        """What was opened before, at once."""
        ...

    def open(self) -> Storage:
        """The same each time, from any thread. Blocks. Raises: StoreError."""
        ...


class Metrics(MetricSink, Protocol):
    """Takes measurements and gives all of them as text."""

    @property
    def content_type(self) -> str: ...

    def gauge(self, metric: Metric) -> list[float]:
        """The newest value of a gauge without labels, for each model that has one."""
        ...

    def render(self) -> bytes: ...


def unknown_build(_model: str) -> ModelBuild | None:
    """The build of a backend that does not say."""
    return None


@frozen
class ServerFacts:
    """What operators are shown of a server beside its models: no secret is in it."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)


@frozen
class Services:
    """What an application is made of; without `storage` no files are kept and no batches run."""

    backend: Backend
    config: ServerConfig
    metrics: Metrics
    version: str
    clock: Clock = field(default_factory=SystemClock)
    accounts: Accounts = field(default_factory=Accounts)
    lifetime: Lifetime = field(default_factory=Lifetime)
    kept: KeptResponses = field(default_factory=KeptResponses)
    runs: ResponseRuns = field(default_factory=ResponseRuns)
    storage: StorageDoor | None = None
    # Files that are being received, by tenant.
    uploads: Counter[str] = field(default_factory=Counter)
    # Set when there may be a batch to run, or to stop.
    batch_news: asyncio.Event = field(default_factory=asyncio.Event)
    build_of: BuildOf = unknown_build
    first_answers: FirstAnswers = field(default_factory=FirstAnswers)
    facts: ServerFacts = field(default_factory=ServerFacts)
    bodies: BodyRoom = field(default_factory=BodyRoom)

    def warned(self, names: Sequence[str]) -> dict[str, str]:
        """The header that names what of a request has no effect.

        Raises: RequestError where the setting `unknown_fields` is error.
        """
        if names and self.config.unknown_fields == "error":
            name = names[0][:100]
            raise RequestError(
                f"{name} has no effect here; allowed: what is read, for unknown_fields of this "
                "server is error. See how it is spelt, or leave it out.",
                name,
                "unknown_parameter",
            )
        return warning_headers(names)

    def models(self) -> dict[str, ModelInfo]:
        """Served names and their models, the default one first.

        Configured names stand for the backend's first model, in place of its own name.
        """
        models = self.backend.models()
        names = self.config.served_model_names
        if not names or not models:
            return {model.name: model for model in models}
        return dict.fromkeys(names, models[0]) | {model.name: model for model in models[1:]}

    def find_model(self, name: str) -> ModelInfo:
        """Raises: ModelNotFound."""
        models = self.models()
        if name not in models:
            raise ModelNotFound(name, tuple(models))
        return models[name]

    def check_ready(self, may_wait: bool = False, model: str | None = None) -> None:
        """See that tokens can move, of a served name or of any; with `may_wait`, that they will
        soon. A model that is not loaded is loaded when it is asked for.

        Raises: CapacityError, ModelNotFound.
        """
        self.lifetime.check_open()
        health, what = self.backend.health(), "The server"
        if model is not None:
            health = health_of(self.backend, self.find_model(model).name) or Health("ready")
            what = f"The model {model}"
        if health.status != "ready" and not (may_wait and health.is_recovering):
            detail = f": {health.detail.rstrip('.')}" if health.detail else ""
            raise CapacityError(
                f"{what} is {health.status}{detail}. Send the request again later.",
                NOT_READY_RETRY_AFTER_S,
                is_full=False,
            )

    async def open_storage(self) -> Storage:
        """Raises: HttpRefusal 404 where nothing is kept, StoreError."""
        if self.storage is None:
            raise HttpRefusal(404, "This server keeps no files and batches: it has no database.")
        opened = self.storage.opened
        return await asyncio.to_thread(self.storage.open) if opened is None else opened


@frozen
class Call:
    """A decoded request to an inference route.

    `meter` is the backend of the call; work that goes on after the answer detaches and closes it.
    """

    body: dict[str, Any]
    headers: Mapping[str, str]
    request_id: str
    caller: Caller
    meter: Metered
    notes: CallNotes = field(default_factory=CallNotes)

    def __post_init__(self) -> None:
        self.notes.cost_of = self.meter.cost_receipt


@frozen
class Visit:
    """A request to a route that runs no model: what it names; `receive` has the body, unread, and
    `share` takes room for it."""

    path: Mapping[str, str]
    query: QueryParams
    headers: Mapping[str, str]
    request_id: str
    caller: Caller
    receive: Receive
    share: BodyShare
