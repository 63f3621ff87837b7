"""How the answer to a generation request is worded, whichever dialect asked.

In: the checked fields of a body. Out: the record that every object of its answer repeats or obeys.
Knows nothing of choices and chunks.
"""

from __future__ import annotations

from headrace.core.errors import BackendError
from headrace.core.frozen import frozen
from headrace.server.generation_schema import GenerationFields, StreamOptions, read_stream_options
from headrace.server.request_ids import response_id
from headrace.server.services import Services


@frozen
class AnswerForm:
    """What an answer says of itself, and what else it shows. Units: `created` seconds of Unix."""

    id: str
    created: int
    model: str
    fingerprint: str
    options: StreamOptions
    shows_token_ids: bool
    shows_tokens_as_ids: bool
    shows_receipt: bool = False


def make_form(services: Services, fields: GenerationFields, id_prefix: str) -> AnswerForm:
    """Raises: InvalidParameter for stream options without a stream."""
    return AnswerForm(
        id=response_id(id_prefix, fields.request_id),
        created=int(services.clock.unix_s()),
        model=fields.model,
        fingerprint=f"headrace-{services.version}",
        options=read_stream_options(fields),
        shows_token_ids=bool(fields.return_token_ids),
        shows_tokens_as_ids=bool(fields.return_tokens_as_token_ids),
        shows_receipt=bool(fields.receipt),
    )


def unexplained_end() -> BackendError:
    """The error for an answer whose outputs ended without a finish reason."""
    return BackendError("The model ended an answer without saying why.")
