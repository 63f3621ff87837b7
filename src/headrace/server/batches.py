"""/v1/batches: files of requests that are answered below interactive traffic.

In: bodies and ids. Out: OpenAI's batch objects. Making one only writes it down; `batch_worker` runs
it. Which endpoints a batch may ask is the table that the app gives both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Literal

import msgspec
from pydantic import Field

from headrace.core.batches import BatchRecord, BatchStatus, LineError, NewBatch
from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.core.usage import Usage
from headrace.server.error_responses import HttpRefusal
from headrace.server.files import check_expiry, encode_list, read_limit
from headrace.server.generation_schema import Strict, allowed, unknown_names, validate
from headrace.server.json_body import read_json_object
from headrace.server.origins import check_page
from headrace.server.replies import JsonReply
from headrace.server.services import Services, Visit

WINDOW, WINDOW_S = "24h", 24 * 3600
MAX_METADATA, MAX_KEY_LENGTH, MAX_VALUE_LENGTH = 16, 64, 512
_DEFAULT_LISTED, _MAX_LISTED = 20, 100
# Of the query of a list.
BATCHES_NAMES = ("limit", "after")
_CANCELLABLE: tuple[BatchStatus, ...] = ("validating", "in_progress")

_METADATA = (
    f"an object of at most {MAX_METADATA} texts, keys of at most {MAX_KEY_LENGTH} characters and "
    f"values of at most {MAX_VALUE_LENGTH}"
)


class BatchFields(Strict):
    input_file_id: str = Field(description="the id of a file of yours with purpose batch")
    endpoint: str = Field(description="a path such as /v1/chat/completions")
    completion_window: str = Field(description=WINDOW)
    metadata: dict[str, Any] | None = allowed(_METADATA)
    output_expires_after: dict[str, Any] | None = allowed(
        'an object such as {"anchor": "created_at", "seconds": 86400}'
    )


class Counts(msgspec.Struct, frozen=True):
    total: int
    completed: int
    failed: int


class CachedTokens(msgspec.Struct, frozen=True):
    cached_tokens: int


class ReasoningTokens(msgspec.Struct, frozen=True):
    reasoning_tokens: int


class BatchUsageBody(msgspec.Struct, frozen=True):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ErrorList(msgspec.Struct, frozen=True):
    data: list[LineError]
    object: Literal["list"] = "list"


class BatchBody(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: ErrorList | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    usage: BatchUsageBody
    metadata: dict[str, str] | None


class BatchRoutes:
    """The routes; `endpoints` are what a batch may ask."""

    def __init__(self, endpoints: Collection[str]) -> None:
        self._endpoints = endpoints

    async def create(self, services: Services, visit: Visit) -> JsonReply:
        """Write a batch down; it is checked and run afterwards.

        Raises: RequestError, StoreError.
        """
        body = await read_json_object(visit.receive, visit.headers, services.config, visit.share)
        fields = validate(BatchFields, body)
        self._check(fields)
        warnings = services.warned(unknown_names(fields, ()))
        new = NewBatch(
            tenant=visit.caller.tenant,
            key_id=visit.caller.key_id,
            endpoint=fields.endpoint,
            input_file_id=fields.input_file_id,
            window_s=WINDOW_S,
            metadata=check_metadata(fields.metadata),
            output_expires_after_s=_read_expiry(fields.output_expires_after),
        )
        batches = (await services.open_storage()).batches
        record = await asyncio.to_thread(batches.create, new, services.config.max_tenant_batches)
        services.batch_news.set()
        return JsonReply(_encode(record), headers=warnings)

    async def list(self, services: Services, visit: Visit) -> JsonReply:
        """The caller's batches, the newest first."""
        limit = read_limit(visit.query, _DEFAULT_LISTED, _MAX_LISTED)
        batches = (await services.open_storage()).batches
        records, has_more = await asyncio.to_thread(
            batches.list, visit.caller.tenant, limit, visit.query.get("after")
        )
        body = encode_list([_describe(record) for record in records], has_more)
        return JsonReply(body)

    async def retrieve(self, services: Services, visit: Visit) -> JsonReply:
        """How far a batch is. Raises: HttpRefusal 404."""
        return JsonReply(_encode(await _find(services, visit)))

    async def cancel(self, services: Services, visit: Visit) -> JsonReply:
        """Begin to cancel; what is finished stays.

        Raises: HttpRefusal 403 and 404, RequestError for a batch that is at its end.
        """
        check_page(visit.headers, services.config, visit.caller.key_id is None)
        record = await _find(services, visit)
        batches = (await services.open_storage()).batches
        is_ours = await asyncio.to_thread(batches.advance, record.id, _CANCELLABLE, "cancelling")
        record = await _find(services, visit)
        if not is_ours and record.status not in ("cancelling", "cancelled"):
            raise RequestError(
                f"The batch {record.id} is {record.status}; one that is "
                f"{' or '.join(_CANCELLABLE)} can be cancelled."
            )
        services.batch_news.set()
        return JsonReply(_encode(record))

    def _check(self, fields: BatchFields) -> None:
        """Raises: RequestError."""
        if fields.endpoint not in self._endpoints:
            shown = ", ".join(self._endpoints)
            raise InvalidParameter("endpoint", fields.endpoint, f"one of {shown}")
        if "\0" in fields.input_file_id:
            raise InvalidParameter("input_file_id", fields.input_file_id, "the id of a file")
        if fields.completion_window != WINDOW:
            raise InvalidParameter("completion_window", fields.completion_window, WINDOW)


async def _find(services: Services, visit: Visit) -> BatchRecord:
    batches = (await services.open_storage()).batches
    batch_id = visit.path["id"]
    record = await asyncio.to_thread(batches.find, visit.caller.tenant, batch_id)
    if record is None:
        text = f"There is no batch {batch_id[:80]!r}. GET /v1/batches lists yours."
        raise HttpRefusal(404, text)
    return record


def check_metadata(metadata: dict[str, Any] | None) -> dict[str, str] | None:
    """Raises: InvalidParameter."""
    if metadata is None:
        return None
    is_right = len(metadata) <= MAX_METADATA and all(
        len(key) <= MAX_KEY_LENGTH and isinstance(value, str) and len(value) <= MAX_VALUE_LENGTH
        for key, value in metadata.items()
    )
    if not is_right:
        raise InvalidParameter("metadata", metadata, _METADATA)
    return metadata


def _read_expiry(policy: dict[str, Any] | None) -> int | None:
    """Raises: InvalidParameter, UnsupportedParameter."""
    if policy is None:
        return None
    for name in policy:
        if name not in ("anchor", "seconds"):
            full_name = f"output_expires_after.{name}"
            raise UnsupportedParameter(full_name, "there are anchor and seconds. Leave it out.")
    return check_expiry("output_expires_after", policy.get("anchor"), policy.get("seconds"))


def _encode(record: BatchRecord) -> bytes:
    return msgspec.json.encode(_describe(record))


def _describe(record: BatchRecord) -> BatchBody:
    times = record.times
    return BatchBody(
        id=record.id,
        endpoint=record.endpoint,
        model=record.model,
        errors=ErrorList(list(record.errors)) if record.errors else None,
        input_file_id=record.input_file_id,
        completion_window=WINDOW,
        status=record.status,
        output_file_id=record.output_file_id,
        error_file_id=record.error_file_id,
        created_at=record.created_at_s,
        in_progress_at=times.get("in_progress"),
        expires_at=record.expires_at_s,
        finalizing_at=times.get("finalizing"),
        completed_at=times.get("completed"),
        failed_at=times.get("failed"),
        expired_at=times.get("expired"),
        cancelling_at=times.get("cancelling"),
        cancelled_at=times.get("cancelled"),
        request_counts=Counts(record.num_total, record.num_completed, record.num_failed),
        usage=_describe_usage(record.usage),
        metadata=None if record.metadata is None else dict(record.metadata),
    )


def _describe_usage(usage: Usage) -> BatchUsageBody:
    return BatchUsageBody(
        usage.input_tokens,
        CachedTokens(usage.cached_input_tokens),
        usage.output_tokens,
        ReasoningTokens(usage.reasoning_tokens),
        usage.total_tokens,
    )
