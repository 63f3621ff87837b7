"""The body of POST /v1/completions: its fields, and its prompts as `core` sees them.

In: a JSON object. Out: checked fields and a list of prompts, each text or token ids.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from headrace.core.errors import InvalidParameter, RequestError, UnsupportedParameter
from headrace.server.generation_schema import NEUTRAL, REFUSED, GenerationFields, allowed

PROMPT = "a string, a list of strings, a list of token ids, or a list of lists of token ids"
_MAX_TOKEN_ID = 2**31 - 1

COMPLETIONS_REFUSED: dict[str, str] = REFUSED
COMPLETIONS_NEUTRAL = NEUTRAL

Prompt = str | tuple[int, ...]


class CompletionFields(GenerationFields):
    prompt: Any = Field(description=PROMPT)
    logprobs: int | None = allowed("a whole number from 0 to 20")
    suffix: str | None = allowed("a string: what stands after the answer")
    echo: bool | None = allowed("true or false")
    max_tokens: int | None = allowed(
        "a whole number, 1 or more; 0 together with echo or prompt_logprobs"
    )
    best_of: int | None = allowed("a whole number equal to n")


def check_best_of(fields: CompletionFields) -> None:
    """Raises: RequestError unless `best_of` asks for what `n` gives."""
    num_answers = 1 if fields.n is None else fields.n
    if fields.best_of is None or fields.best_of == num_answers:
        return
    if fields.best_of > num_answers:
        raise UnsupportedParameter(
            "best_of", "answers are not ranked. Leave it out and choose among n answers."
        )
    raise InvalidParameter("best_of", fields.best_of, f"at least n ({num_answers})")


def read_prompts(fields: CompletionFields, max_prompts: int) -> list[Prompt]:
    """The prompts of a body; before a suffix there may be nothing.

    Raises: RequestError.
    """
    if not fields.suffix:
        return parse_prompts(fields.prompt, max_prompts)
    if fields.echo:
        raise InvalidParameter("echo", True, "false together with suffix")
    is_empty = fields.prompt == ""
    prompts: list[Prompt] = [""] if is_empty else parse_prompts(fields.prompt, max_prompts)
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise InvalidParameter("prompt", fields.prompt, "a text, together with suffix")
    return prompts


def parse_prompts(
    value: object,
    max_prompts: int,
    name: str = "prompt",
    limit: str = ", this server's limit (max_prompts)",
) -> list[Prompt]:
    """Sort out the four forms of a prompt. `limit` says in an error whose `max_prompts` is.

    Raises: InvalidParameter naming the element at fault.
    """
    if isinstance(value, str):
        return [_read_text(value, name)]
    if not isinstance(value, list) or not value:
        raise InvalidParameter(name, value, PROMPT)
    if type(value[0]) is int:
        return [_read_token_ids(value, name)]
    if len(value) > max_prompts:
        raise RequestError(
            f"{name} has {len(value)} texts or lists; allowed: at most {max_prompts}{limit}. "
            "Send several requests.",
            name,
            "invalid_value",
        )
    return [_read_prompt(item, f"{name}[{index}]") for index, item in enumerate(value)]


def _read_prompt(value: object, path: str) -> Prompt:
    if isinstance(value, str):
        return _read_text(value, path)
    if isinstance(value, list) and value:
        return _read_token_ids(value, path)
    raise InvalidParameter(path, value, "a string or a list of token ids, not empty")


def _read_text(value: str, path: str) -> str:
    if not value:
        raise InvalidParameter(path, value, "a text that is not empty")
    return value


def _read_token_ids(value: list[Any], path: str) -> tuple[int, ...]:
    # Looked at one by one only where something is wrong: there may be millions.
    if set(map(type, value)) != {int} or min(value) < 0 or max(value) > _MAX_TOKEN_ID:
        for index, token_id in enumerate(value):
            if type(token_id) is not int or not 0 <= token_id <= _MAX_TOKEN_ID:
                raise InvalidParameter(f"{path}[{index}]", token_id, "a token id (0 or more)")
    return tuple(value)
