"""/v1/files: what callers keep here, each tenant for itself.

In: forms, ids. Out: OpenAI's file objects, and the bytes again. Another tenant's file is as unknown
as one that never was. Knows no folder and no database.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import BinaryIO, Literal
from urllib.parse import quote

import msgspec
from starlette.datastructures import QueryParams

from headrace.core.errors import CapacityError, InvalidParameter, RequestError
from headrace.core.files import (
    BATCH_OUTPUT,
    UPLOAD_PURPOSES,
    FilePage,
    FileRecord,
    NewFile,
)
from headrace.core.units import format_bytes
from headrace.server.error_responses import HttpRefusal
from headrace.server.multipart_body import FILE, Upload, read_upload
from headrace.server.origins import check_page
from headrace.server.replies import BytesReply, JsonReply
from headrace.server.services import Services, Visit

MAX_BATCH_BYTES = 200 * 1024**2
# Of a tenant at a time: each may put a whole file on the disk before it is known to be too much.
MAX_UPLOADS = 4
MIN_EXPIRY_S, MAX_EXPIRY_S = 3600, 30 * 24 * 3600
# OpenAI keeps files of this purpose for 30 days; others until they are deleted.
DEFAULT_EXPIRY_S = {"batch": MAX_EXPIRY_S}
# Of the query of a list.
FILES_NAMES = ("order", "purpose", "limit", "after")
_MAX_FILENAME_LENGTH = 255
_MAX_LISTED = 10_000
_CHUNK_BYTES = 256 * 1024
_KNOWN = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,12}")


class FileBody(msgspec.Struct, frozen=True):
    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None
    status: Literal["processed"] = "processed"
    status_details: None = None
    object: Literal["file"] = "file"


async def create_file(services: Services, visit: Visit) -> JsonReply:
    """Take an upload.

    Raises: RequestError, HttpRefusal 403, 413 and 415, CapacityError, StoreError.
    """
    check_page(visit.headers, services.config, visit.caller.key_id is None)
    files = (await services.open_storage()).files
    with _counted(services.uploads, visit.caller.tenant):
        upload = Upload(await asyncio.to_thread(files.new_writer))
        try:
            await read_upload(visit.receive, visit.headers, services.config, upload)
            new = _read_form(upload, visit.caller.tenant)
            warnings = services.warned([name for name in upload.fields if name not in _KNOWN])
            record = await asyncio.to_thread(
                files.add, upload.writer, new, services.config.max_tenant_file_bytes
            )
        finally:
            await asyncio.to_thread(upload.writer.discard)
    return JsonReply(_encode(record), headers=warnings)


@contextmanager
def _counted(uploads: Counter[str], tenant: str) -> Iterator[None]:
    """An upload while the block runs. What a tenant has counts when it is whole, not before.

    Mutates: uploads. Raises: CapacityError.
    """
    if uploads[tenant] >= MAX_UPLOADS:
        raise CapacityError(
            f"{MAX_UPLOADS} uploads of yours are being received. Send the next one when one ends."
        )
    uploads[tenant] += 1
    try:
        yield
    finally:
        uploads[tenant] -= 1
        if not uploads[tenant]:
            del uploads[tenant]


async def list_files(services: Services, visit: Visit) -> JsonReply:
    """The caller's files, the newest first unless `order` says otherwise."""
    files = (await services.open_storage()).files
    order = visit.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidParameter("order", order, "asc or desc")
    purpose = visit.query.get("purpose")
    if purpose not in (None, *UPLOAD_PURPOSES, BATCH_OUTPUT):
        allowed = f"one of {', '.join((*UPLOAD_PURPOSES, BATCH_OUTPUT))}"
        raise InvalidParameter("purpose", purpose, allowed)
    page = FilePage(
        limit=read_limit(visit.query, _MAX_LISTED, _MAX_LISTED),
        after=visit.query.get("after"),
        purpose=purpose,
        is_ascending=order == "asc",
    )
    records, has_more = await asyncio.to_thread(files.list, visit.caller.tenant, page)
    body = encode_list([_describe(record) for record in records], has_more)
    return JsonReply(body)


async def retrieve_file(services: Services, visit: Visit) -> JsonReply:
    """What is known of a file. Raises: HttpRefusal 404."""
    return JsonReply(_encode(await _find(services, visit)))


async def delete_file(services: Services, visit: Visit) -> JsonReply:
    """Remove a file.

    Raises: HttpRefusal 404, RequestError while a batch reads it.
    """
    files = (await services.open_storage()).files
    file_id = visit.path["id"]
    if not await asyncio.to_thread(files.delete, visit.caller.tenant, file_id):
        raise _unknown_file(file_id)
    return JsonReply(msgspec.json.encode({"id": file_id, "object": "file", "deleted": True}))


async def retrieve_content(services: Services, visit: Visit) -> BytesReply:
    """The bytes of a file. Raises: HttpRefusal 404."""
    record = await _find(services, visit)
    files = (await services.open_storage()).files
    file = await asyncio.to_thread(files.open, record)
    # Never shown by a browser as a page of this server.
    name = quote(record.filename, safe="")
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{name}"}
    return BytesReply(_read_chunks(file, record.num_bytes), record.num_bytes, headers)


async def _read_chunks(file: BinaryIO, num_bytes: int) -> AsyncGenerator[bytes, None]:
    with closing(file):
        while num_bytes > 0:
            data = await asyncio.to_thread(file.read, min(num_bytes, _CHUNK_BYTES))
            if not data:
                return
            num_bytes -= len(data)
            yield data


async def _find(services: Services, visit: Visit) -> FileRecord:
    files = (await services.open_storage()).files
    record = await asyncio.to_thread(files.find, visit.caller.tenant, visit.path["id"])
    if record is None:
        raise _unknown_file(visit.path["id"])
    return record


def _unknown_file(file_id: str) -> HttpRefusal:
    return HttpRefusal(404, f"There is no file {file_id[:80]!r}. GET /v1/files lists yours.")


def _read_form(upload: Upload, tenant: str) -> NewFile:
    """Raises: RequestError."""
    if not upload.has_file:
        raise RequestError("file is missing; give a file.", FILE, "missing_required_parameter")
    purpose = upload.fields.get("purpose")
    allowed = f"one of {', '.join(UPLOAD_PURPOSES)}"
    if purpose is None:
        text = f"purpose is missing; give {allowed}."
        raise RequestError(text, "purpose", "missing_required_parameter")
    if purpose not in UPLOAD_PURPOSES:
        raise InvalidParameter("purpose", purpose, allowed)
    num_bytes = upload.writer.num_bytes
    if purpose == "batch" and num_bytes > MAX_BATCH_BYTES:
        raise RequestError(
            f"file has {format_bytes(num_bytes)}; allowed for the purpose batch: at most "
            f"{format_bytes(MAX_BATCH_BYTES)}. Make several batches.",
            FILE,
        )
    filename = upload.filename or "upload"
    if len(filename) > _MAX_FILENAME_LENGTH or not filename.isprintable():
        allowed = f"1 to {_MAX_FILENAME_LENGTH} printable characters"
        raise InvalidParameter("filename", filename, allowed)
    expiry_s = _read_form_expiry(upload.fields)
    return NewFile(
        tenant=tenant,
        purpose=purpose,
        filename=filename,
        expires_after_s=DEFAULT_EXPIRY_S.get(purpose) if expiry_s is None else expiry_s,
    )


def _read_form_expiry(fields: Mapping[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    is_number = seconds is not None and _WHOLE_NUMBER.fullmatch(seconds)
    return check_expiry("expires_after", anchor, int(seconds or 0) if is_number else seconds)


def check_expiry(name: str, anchor: object, seconds: object) -> int:
    """The seconds of an expiry policy. Raises: InvalidParameter."""
    if anchor != "created_at":
        raise InvalidParameter(f"{name}[anchor]", anchor, "created_at")
    if type(seconds) is not int or not MIN_EXPIRY_S <= seconds <= MAX_EXPIRY_S:
        allowed = f"a whole number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}"
        raise InvalidParameter(f"{name}[seconds]", seconds, allowed)
    return seconds


def read_limit(query: QueryParams, default: int, highest: int) -> int:
    """The size of a page. Raises: InvalidParameter."""
    text = query.get("limit")
    if text is None:
        return default
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= highest:
        raise InvalidParameter("limit", text, f"a whole number from 1 to {highest}")
    return int(text)


def encode_list(objects: list[msgspec.Struct], has_more: bool) -> bytes:
    """A page as OpenAI words it; the objects have ids."""
    ids = [getattr(found, "id", None) for found in objects]
    return msgspec.json.encode(
        {
            "object": "list",
            "data": objects,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
            "has_more": has_more,
        }
    )


def _encode(record: FileRecord) -> bytes:
    return msgspec.json.encode(_describe(record))


def _describe(record: FileRecord) -> FileBody:
    return FileBody(
        id=record.id,
        bytes=record.num_bytes,
        created_at=record.created_at_s,
        filename=record.filename,
        purpose=record.purpose,
        expires_at=record.expires_at_s,
    )


def output_file(tenant: str, filename: str, expires_after_s: int | None) -> NewFile:
    """A file that a batch leaves."""
    return NewFile(
        tenant=tenant,
        purpose=BATCH_OUTPUT,
        filename=filename,
        expires_after_s=MAX_EXPIRY_S if expires_after_s is None else expires_after_s,
    )
