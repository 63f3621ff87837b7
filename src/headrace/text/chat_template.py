"""Chat templates: messages to the text, and the tokens, a model was trained to read.

In: messages, tools and arguments of a request. Out: the rendered text, and token ids in which every
control token is the template's own. Knows the rules of Hugging Face's `apply_chat_template`; the
sandbox, the values and the marks have files of their own.

How typed control tokens stay text: the template is rendered plainly, and once more with the
caller's characters marked (control_text.py). If unmarking the second gives the first, the control
tokens that stand in the second are the template's. When these are all there are, the plain text is
encoded as a whole; else it is cut at them and the rest is encoded as text. A template that looks at
the marked characters renders otherwise; then only the places where a control token could begin are
marked, and the control tokens must agree with those of the full marking.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from jinja2.exceptions import TemplateError

from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import InvalidParameter, RequestError
from headrace.core.frozen import frozen
from headrace.core.message import Message, Tool
from headrace.text.control_text import (
    NO_CONTROL_TEXTS,
    ControlTexts,
    Marker,
    Marking,
    split_at,
)
from headrace.text.jinja_environment import ChatEnvironment
from headrace.text.template_input import (
    ROLES,
    TemplateInput,
    asks_short_ids,
    caller_texts,
    check_messages,
)
from headrace.text.tokenizer import Tokenizer

# Stands after the final message while it is rendered; the space shows whether it was trimmed.
_END = "\U0010fffdend of the final message "
# `message["role"] == "ipython"`, `message.role != 'model'`.
_COMPARED_ROLE = re.compile(r"""\brole['"]?\]?\s*[=!]=\s*['"](\w+)['"]""")
_MAX_ERROR_CHARACTERS = 1_000


@frozen
class Rendered:
    """A rendered chat.

    `pieces` is None when every control token in `text` is the template's; else the text cut into
    (piece, is a control token of the template).
    """

    text: str
    pieces: tuple[tuple[str, bool], ...] | None = None


@frozen
class _Chat:
    messages: Sequence[Message]
    tools: Sequence[Tool]
    add_generation_prompt: bool
    continue_final_message: bool
    kwargs: Mapping[str, Any]


class ChatTemplate:
    """One model's template. `special_tokens` are variables of it, such as bos_token."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], clock: Clock | None = None
    ) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        self._environment = ChatEnvironment(clock or SystemClock())
        self._has_short_ids = asks_short_ids(source)
        self.compile_error: str | None = None
        try:
            self._template = self._environment.compile_bounded(source)
        except Exception as error:  # what Python says of the code that a template becomes, too
            # Completions do not need the template, so a broken one only refuses chats.
            self.compile_error = _shown(error)

    @property
    def reads_messages(self) -> bool:
        """Whether it says anything of a chat."""
        return "messages" in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        if self.compile_error is not None:
            return frozenset()
        return frozenset(self._environment.names_read - set(self._environment.globals))

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names the template reads that a request may set, such as enable_thinking."""
        fixed = {"messages", "tools", "documents", "add_generation_prompt"}
        known = fixed | set(self._special_tokens) | set(self._environment.globals)
        return self._names - known

    @property
    def reads_message_names(self) -> bool:
        """Whether the `name` of a message may make a difference."""
        return self._environment.reads_message_names

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles a message may have: those of every chat, and those the template compares with."""
        return tuple(dict.fromkeys((*ROLES, *_COMPARED_ROLE.findall(self.source))))

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: Mapping[str, Any] | None = None,
        control_texts: ControlTexts = NO_CONTROL_TEXTS,
    ) -> Rendered:
        """Render a chat. `control_texts` are those of the tokenizer that will encode it.

        Raises: RequestError with the template's message; InvalidParameter.
        """
        _check(messages, add_generation_prompt, continue_final_message)
        chat = _Chat(messages, tools, add_generation_prompt, continue_final_message, kwargs or {})
        controls = control_texts
        plain = self._render(chat, Marker(controls, Marking.NONE, ()))
        if not controls.find(plain):
            return Rendered(plain)
        genuine = self._template_spans(chat, controls, plain)
        if genuine == controls.find(plain):
            return Rendered(plain)
        return Rendered(plain, tuple(split_at(plain, genuine)))

    def _template_spans(
        self, chat: _Chat, controls: ControlTexts, plain: str
    ) -> list[tuple[int, int]]:
        """Where the template wrote control tokens into `plain`."""
        texts = caller_texts(self._variables(chat, Marker(controls, Marking.NONE, ())))
        every = Marker(controls, Marking.EVERY, texts)
        try:
            rendered = self._render(chat, every)
        except RequestError:  # the template insists on some text of the caller's
            written = None
        else:
            spans = controls.find(rendered)
            if every.unmark(rendered) == plain:
                return spans
            written = _texts_at(rendered, spans)
        starts = Marker(controls, Marking.STARTS, texts)
        rendered = self._render(chat, starts)
        spans = controls.find(rendered)
        is_same = written is None or written == _texts_at(rendered, spans)
        if starts.unmark(rendered) != plain or not is_same:
            raise RequestError(
                "The messages contain the text of a control token of this model where its chat "
                "template cannot tell it from its own. Remove that text.",
                "messages",
                "invalid_value",
            )
        return spans

    def _render(self, chat: _Chat, marker: Marker) -> str:
        if self.compile_error is not None:
            raise RequestError(
                f"The model's chat template does not compile: {self.compile_error}. "
                "Use /v1/completions, or give the model a working template.",
                "messages",
            )
        variables = self._variables(chat, marker)
        if chat.continue_final_message:
            variables["messages"][-1]["content"] += _END
        try:
            text = self._environment.render_bounded(self._template, variables)
        except TemplateError as error:
            raise RequestError(
                f"The chat template refused the request: {_shown(error)}",
                "messages",
                "invalid_value",
            ) from error
        except Exception as error:  # a template can raise what Python can
            raise RequestError(
                f"The chat template failed: {type(error).__name__}: {_shown(error)}",
                "messages",
                "invalid_value",
            ) from error
        return _cut_after_final_message(text) if chat.continue_final_message else text

    def _variables(self, chat: _Chat, marker: Marker) -> dict[str, Any]:
        values = TemplateInput(
            marker.mark, lambda text: self._quotes(text, marker.controls), self._has_short_ids
        )
        try:
            return {
                "documents": None,
                **self._special_tokens,
                **values.keyword_arguments(chat.kwargs),
                "messages": [values.message(message) for message in chat.messages],
                "tools": [values.tool(tool) for tool in chat.tools] or None,
                "add_generation_prompt": chat.add_generation_prompt,
            }
        except RecursionError as error:
            raise RequestError(
                "Tools, tool calls or chat_template_kwargs are nested too deeply; "
                "a few hundred levels are allowed.",
                "messages",
                "invalid_value",
            ) from error

    def _quotes(self, text: str, controls: ControlTexts) -> bool:
        """Whether the template has the text, which holds no control token, as a literal."""
        is_literal = f"'{text}'" in self.source or f'"{text}"' in self.source
        return is_literal and not controls.find(text)


def no_template_error() -> RequestError:
    """The error for messages to a model that was not trained for chats."""
    return RequestError(
        "This model has no chat template, so it cannot read messages. "
        "Use /v1/completions with a prompt, or a model that was trained for chats.",
        "messages",
        "unsupported_parameter",
    )


def encode_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    check_text: Callable[[str], None] = lambda _: None,
) -> list[int]:
    """Token ids of a chat. BOS comes from the template alone. `check_text` sees it rendered.

    Raises: RequestError when there is no template or it refuses; InvalidParameter.
    """
    if template is None:
        raise no_template_error()
    check_messages(messages, template.roles)
    rendered = template.render(
        messages,
        tools,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        kwargs=kwargs,
        control_texts=tokenizer.control_texts,
    )
    check_text(rendered.text)
    if rendered.pieces is None:
        return tokenizer.encode(rendered.text, add_special_tokens=False, parse_special=True)
    return tokenizer.encode_pieces(rendered.pieces)


def _check(
    messages: Sequence[Message], add_generation_prompt: bool, continue_final_message: bool
) -> None:
    if not messages:
        raise InvalidParameter("messages", [], "at least one message")
    if continue_final_message and add_generation_prompt:
        raise InvalidParameter(
            "continue_final_message",
            True,
            "false while add_generation_prompt is true",
            "Set add_generation_prompt to false to continue the final message.",
        )
    if continue_final_message and messages[-1].content is None:
        raise InvalidParameter(
            "continue_final_message", True, "false when the final message has no content"
        )


def _shown(error: Exception) -> str:
    """What an error says; a template may give it any text."""
    text = str(error) or type(error).__name__
    return text if len(text) <= _MAX_ERROR_CHARACTERS else text[:_MAX_ERROR_CHARACTERS] + "..."


def _texts_at(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in spans]


def _cut_after_final_message(text: str) -> str:
    """Drop what the template wrote after the final message's content."""
    at = text.rfind(_END.strip())
    if at < 0:
        raise RequestError(
            "continue_final_message is true, but the chat template leaves the final message out.",
            "continue_final_message",
            "invalid_value",
        )
    is_trimmed = text[at : at + len(_END)] != _END
    return text[:at].rstrip() if is_trimmed else text[:at]
