"""Bad request bodies and the exact answer to each: status, message, param, code.

In: nothing. Out: `BAD_INPUTS` for JSON bodies, `BAD_BODIES` for raw ones. The server under test has
FakeBackend's model `tiny` with 1000 tokens of context, and takes bodies of up to 8192 bytes.
"""

# ruff: noqa: E501
# Messages stand on one line, as a client reads them.

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
MAX_BODY_BYTES = 8192


@dataclass(frozen=True)
class BadInput:
    """A JSON body and its answer."""

    route: str
    body: dict[str, Any]
    message: str
    param: str | None
    code: str | None = "invalid_value"
    status: int = 400


@dataclass(frozen=True)
class BadBody:
    """Raw bytes and their answer."""

    content: bytes
    message: str
    status: int = 400
    content_type: str | None = "application/json"


def chat(fields: dict[str, Any], message: str, param: str, **rest: Any) -> BadInput:
    return BadInput(CHAT, {"model": "tiny", "messages": HI} | fields, message, param, **rest)


def text(fields: dict[str, Any], message: str, param: str, **rest: Any) -> BadInput:
    return BadInput(TEXT, {"model": "tiny", "prompt": "hi"} | fields, message, param, **rest)


TOOL = {"type": "function", "function": {"name": "f"}}
_NO_PARTS = (
    "A form holds the whole answer, not parts of it between marks: write marks and text into "
    "structured_outputs.grammar, or use tools for calls."
)
TOOL_NAMES = "1 to 128 letters, digits and _ . : / -"
CHOICES = (
    'none, auto, required, {"type": "function", "function": {"name": ...}} or '
    '{"type": "allowed_tools", "allowed_tools": {"mode": ..., "tools": [...]}}'
)
BAD_INPUTS = (
    chat(
        {"temperature": "hot"},
        "temperature is 'hot'; allowed: a number from 0 to 2.",
        "temperature",
    ),
    chat(
        {"temperature": True}, "temperature is true; allowed: a number from 0 to 2.", "temperature"
    ),
    chat({"temperature": 2.5}, "temperature is 2.5; allowed: 0 to 2.", "temperature"),
    chat({"temperature": -1}, "temperature is -1; allowed: 0 to 2.", "temperature"),
    chat({"top_p": 0}, "top_p is 0; allowed: more than 0, at most 1.", "top_p"),
    chat({"top_p": "1"}, "top_p is '1'; allowed: a number, more than 0, at most 1.", "top_p"),
    chat(
        {"top_k": 1.5},
        "top_k is 1.5; allowed: a whole number: -1 or 0 (all), or 1 to 2147483647.",
        "top_k",
    ),
    chat({"top_k": -2}, "top_k is -2; allowed: -1 or 0 (all), or 1 to 2147483647.", "top_k"),
    chat({"min_p": 2}, "min_p is 2; allowed: 0 to 1.", "min_p"),
    chat({"typical_p": 0}, "typical_p is 0; allowed: more than 0, at most 1.", "typical_p"),
    chat(
        {"repetition_penalty": 0},
        "repetition_penalty is 0; allowed: 0.01 to 10.",
        "repetition_penalty",
    ),
    chat({"presence_penalty": 3}, "presence_penalty is 3; allowed: -2 to 2.", "presence_penalty"),
    chat(
        {"frequency_penalty": -3}, "frequency_penalty is -3; allowed: -2 to 2.", "frequency_penalty"
    ),
    chat({"n": 0}, "n is 0; allowed: 1 to 128.", "n"),
    chat({"n": 129}, "n is 129; allowed: 1 to 128.", "n"),
    chat({"n": "2"}, "n is '2'; allowed: a whole number from 1 to 128.", "n"),
    chat({"seed": 2**63}, "seed is 9223372036854775808; allowed: a signed 64-bit integer.", "seed"),
    chat({"seed": 1.5}, "seed is 1.5; allowed: a signed 64-bit integer.", "seed"),
    chat(
        {"max_tokens": "10"},
        "max_tokens is '10'; allowed: a whole number, 1 or more.",
        "max_tokens",
    ),
    chat({"max_tokens": 0}, "max_tokens is 0; allowed: 1 or more.", "max_tokens"),
    chat(
        {"max_tokens": True},
        "max_tokens is true; allowed: a whole number, 1 or more.",
        "max_tokens",
    ),
    chat(
        {"max_completion_tokens": -5},
        "max_completion_tokens is -5; allowed: 1 or more.",
        "max_completion_tokens",
    ),
    chat(
        {"max_completion_tokens": 1, "min_tokens": 2},
        "min_tokens is 2; allowed: 0 to max_completion_tokens (1).",
        "min_tokens",
    ),
    chat(
        {"max_tokens": 1, "min_tokens": 2},
        "min_tokens is 2; allowed: 0 to max_tokens (1).",
        "min_tokens",
    ),
    chat({"stop": 5}, "stop is 5; allowed: a string or a list of strings.", "stop"),
    chat({"stop": ["a", 1]}, 'stop is ["a", 1]; allowed: a string or a list of strings.', "stop"),
    chat({"stop": ""}, "stop is ''; allowed: a list of non-empty strings.", "stop"),
    chat({"stop": ["x"] * 65}, "stop has 65 texts; allowed: at most 64.", "stop"),
    chat(
        {"stop_token_ids": ["a"]},
        'stop_token_ids is ["a"]; allowed: a list of token ids.',
        "stop_token_ids",
    ),
    chat(
        {"stop_token_ids": [-1]},
        "stop_token_ids is [-1]; allowed: a list of token ids (integers, 0 or more).",
        "stop_token_ids",
    ),
    chat(
        {"logit_bias": {"5": 200}},
        'logit_bias is {"5": 200}; allowed: token ids with numbers from -100 to 100.',
        "logit_bias",
    ),
    chat(
        {"logit_bias": {"x": 1}},
        'logit_bias is {"x": 1}; allowed: token ids with numbers from -100 to 100.',
        "logit_bias",
    ),
    chat(
        {"logit_bias": {"1": 1, "01": 2}},
        'logit_bias is {"01": 2}; allowed: a token once.',
        "logit_bias",
    ),
    chat(
        {"logit_bias": [1]},
        "logit_bias is [1]; allowed: token ids with numbers from -100 to 100.",
        "logit_bias",
    ),
    chat(
        {"logit_bias": {"5": "a"}},
        'logit_bias is {"5": "a"}; allowed: token ids with numbers from -100 to 100.',
        "logit_bias",
    ),
    chat(
        {"allowed_token_ids": []},
        "allowed_token_ids is []; allowed: at least one token id, or leave it out.",
        "allowed_token_ids",
    ),
    chat(
        {"bad_words": [""]}, 'bad_words is [""]; allowed: a list of non-empty strings.', "bad_words"
    ),
    chat(
        {"top_logprobs": 2},
        "top_logprobs is 2; allowed: only together with logprobs: true.",
        "top_logprobs",
    ),
    chat(
        {"logprobs": True, "top_logprobs": 21},
        "top_logprobs is 21; allowed: 0 to 20.",
        "top_logprobs",
    ),
    chat({"logprobs": 3}, "logprobs is 3; allowed: true or false.", "logprobs"),
    chat(
        {"logprobs": False, "top_logprobs": 0},
        "top_logprobs is 0; allowed: only together with logprobs: true.",
        "top_logprobs",
    ),
    chat(
        {"stream_options": {"include_usage": True}},
        'stream_options is {"include_usage": true}; allowed: only together with stream: true.',
        "stream_options",
    ),
    chat({"stream": "yes"}, "stream is 'yes'; allowed: true or false.", "stream"),
    chat(
        {"stream": True, "stream_options": {"include_usage": "x"}},
        "stream_options.include_usage is 'x'; allowed: true or false.",
        "stream_options.include_usage",
    ),
    chat(
        {"stream": True, "stream_options": 3},
        'stream_options is 3; allowed: an object such as {"include_usage": true}.',
        "stream_options",
    ),
    BadInput(
        CHAT,
        {"messages": [{"role": "user", "content": "hi"}]},
        "model is missing; give the name of a served model, as GET /v1/models lists them.",
        "model",
        code="missing_required_parameter",
    ),
    BadInput(
        CHAT,
        {"model": "tiny"},
        "messages is missing; give a list of at least one message object.",
        "messages",
        code="missing_required_parameter",
    ),
    chat(
        {"model": None},
        "model is null; allowed: the name of a served model, as GET /v1/models lists them.",
        "model",
    ),
    chat(
        {"model": "tinny"},
        "The model 'tinny' does not exist here. Did you mean tiny?",
        "model",
        code="model_not_found",
        status=404,
    ),
    chat(
        {"model": "gpt-5"},
        "The model 'gpt-5' does not exist here. Known: tiny.",
        "model",
        code="model_not_found",
        status=404,
    ),
    chat(
        {"messages": []},
        "messages is []; allowed: a list of at least one message object.",
        "messages",
    ),
    chat(
        {"messages": "hi"},
        "messages is 'hi'; allowed: a list of at least one message object.",
        "messages",
    ),
    chat(
        {"messages": ["hi"]},
        'messages is ["hi"]; allowed: a list of at least one message object.',
        "messages",
    ),
    chat(
        {"messages": [{}]},
        "messages[0].role is missing; give system, developer, user, assistant or tool.",
        "messages[0].role",
        code="missing_required_parameter",
    ),
    chat(
        {"messages": [{"role": 5}]},
        "messages[0].role is 5; allowed: system, developer, user, assistant or tool.",
        "messages[0].role",
    ),
    chat(
        {"messages": [{"role": "user", "content": 7}]},
        "messages[0].content is 7; allowed: a string, null, or a list of text parts.",
        "messages[0].content",
    ),
    chat(
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
            ]
        },
        "messages[0].content[0].type is 'image_url'; allowed: text. This model takes text only.",
        "messages[0].content[0].type",
    ),
    chat(
        {"messages": [{"role": "user", "content": ["a"]}]},
        'messages[0].content[0] is \'a\'; allowed: an object such as {"type": "text", "text": "..."}.',
        "messages[0].content[0]",
    ),
    chat(
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text is missing; give a string.",
        "messages[0].content[0].text",
        code="missing_required_parameter",
    ),
    chat(
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 4}]}]},
        "messages[0].content[0].text is 4; allowed: a string.",
        "messages[0].content[0].text",
    ),
    chat(
        {
            "messages": [
                {
                    "role": "assistant",
                    "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f"}}],
                }
            ]
        },
        "messages[0].tool_calls[0].function.arguments is missing; give the arguments as JSON text in a string.",
        "messages[0].tool_calls[0].function.arguments",
        code="missing_required_parameter",
    ),
    chat(
        {
            "messages": [
                {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "function": {}}]}
            ]
        },
        "messages[0].tool_calls[0].type is 'custom'; allowed: function.",
        "messages[0].tool_calls[0].type",
    ),
    chat(
        {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]},
        "messages[0].function_call is not supported: the field is out of date. Use tool_calls.",
        "messages[0].function_call",
        code="unsupported_parameter",
    ),
    chat(
        {"messages": [{"role": "user", "content": "x" * 1000}]},
        "This model's maximum context length is 1000 tokens. The prompt has 1000 tokens. Shorten the prompt.",
        "messages",
        code="context_length_exceeded",
    ),
    chat(
        {"messages": [{"role": "user", "content": "x" * 1000}], "max_completion_tokens": 5},
        "This model's maximum context length is 1000 tokens. The prompt has 1000 tokens and asks for 5 more. Shorten the prompt or lower max_completion_tokens.",
        "messages",
        code="context_length_exceeded",
    ),
    text(
        {"prompt": "x" * 1000, "max_tokens": 7},
        "This model's maximum context length is 1000 tokens. The prompt has 1000 tokens and asks for 7 more. Shorten the prompt or lower max_tokens.",
        "prompt",
        code="context_length_exceeded",
    ),
    chat(
        {"response_format": {"type": "json_schema"}},
        "response_format.json_schema is missing; give an object with name and schema.",
        "response_format.json_schema",
        code="missing_required_parameter",
    ),
    chat(
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name is missing; give 1 to 64 letters, digits, _ and -.",
        "response_format.json_schema.name",
        code="missing_required_parameter",
    ),
    chat(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
        "response_format.json_schema.name is 'a b'; allowed: 1 to 64 letters, digits, _ and -.",
        "response_format.json_schema.name",
    ),
    chat(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema is missing; give a JSON schema.",
        "response_format.json_schema.schema",
        code="missing_required_parameter",
    ),
    chat(
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": True}}},
        "response_format.json_schema.schema is true; allowed: a JSON schema: an object.",
        "response_format.json_schema.schema",
    ),
    chat(
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {}, "strict": "yes"},
            }
        },
        "response_format.json_schema.strict is 'yes'; allowed: true or false.",
        "response_format.json_schema.strict",
    ),
    chat(
        {"response_format": {"type": "xml"}},
        "response_format.type is 'xml'; allowed: text, json_object or json_schema.",
        "response_format.type",
    ),
    *(
        ask(
            {"response_format": {"type": "structural_tag", **given}},
            "response_format.type is 'structural_tag'; allowed: text, json_object or json_schema. "
            + _NO_PARTS,
            "response_format.type",
        )
        for ask, given in (
            (
                chat,
                {"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a"]},
            ),
            (text, {"format": {"type": "any_text"}}),
        )
    ),
    BadInput(
        "/v1/responses",
        {"model": "tiny", "input": "hi", "text": {"format": {"type": "structural_tag"}}},
        "text.format.type is 'structural_tag'; allowed: text, json_object or json_schema. "
        + _NO_PARTS,
        "text.format.type",
    ),
    *(
        chat(
            {"response_format": {"type": kind, name: {"type": "integer"}}},
            f"response_format.{name} is not supported: answers would not be held to it. Give the schema as "
            'response_format.json_schema.schema and set response_format.type to "json_schema".',
            f"response_format.{name}",
            code="unsupported_parameter",
        )
        for kind in ("json_object", "text")
        for name in ("schema", "json_schema")
    ),
    BadInput(
        "/v1/responses",
        {
            "model": "tiny",
            "input": "hi",
            "text": {"format": {"type": "json_object", "schema": {"type": "integer"}}},
        },
        "text.format.schema is not supported: answers would not be held to it. Give the schema as "
        'text.format.schema and set text.format.type to "json_schema".',
        "text.format.schema",
        code="unsupported_parameter",
    ),
    chat(
        {"response_format": {}},
        "response_format.type is missing; give text, json_object or json_schema.",
        "response_format.type",
        code="missing_required_parameter",
    ),
    chat(
        {"response_format": "json"},
        'response_format is \'json\'; allowed: an object: {"type": "text"}, {"type": "json_object"}, or {"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}.',
        "response_format",
    ),
    chat(
        {"tools": ["f"]},
        'tools[0] is \'f\'; allowed: an object: {"type": "function", "function": {...}}.',
        "tools[0]",
    ),
    chat(
        {"tools": [TOOL, {"type": "custom", "custom": {"name": "g"}}]},
        "tools[1].type is not supported: 'custom' is not served. Use function.",
        "tools[1].type",
        code="unsupported_parameter",
    ),
    chat(
        {"tools": [{"type": "function"}]},
        "tools[0].function is missing; give an object with a name.",
        "tools[0].function",
        code="missing_required_parameter",
    ),
    chat(
        {"tools": [{"type": "function", "function": None}]},
        "tools[0].function is null; allowed: an object with a name.",
        "tools[0].function",
    ),
    chat(
        {"tools": [{"type": "function", "function": {}}]},
        f"tools[0].function.name is missing; give {TOOL_NAMES}.",
        "tools[0].function.name",
        code="missing_required_parameter",
    ),
    chat(
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        f"tools[0].function.name is 'a b'; allowed: {TOOL_NAMES}.",
        "tools[0].function.name",
    ),
    chat(
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
        "tools[0].function.parameters is []; allowed: a JSON schema: an object.",
        "tools[0].function.parameters",
    ),
    chat(
        {
            "tools": [
                {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
            ]
        },
        "tools[0].function.parameters.type is 'string'; allowed: object.",
        "tools[0].function.parameters.type",
    ),
    chat(
        {"tools": [TOOL, TOOL]},
        "tools[1].function.name is 'f'; allowed: a name that no other tool has. tools[0] has this one.",
        "tools[1].function.name",
    ),
    chat(
        {"tool_choice": {"type": "function", "function": {"name": "g"}}},
        'tool_choice is {"type": "function", "function": {"name": "g"}}; allowed: auto or none without tools.',
        "tool_choice",
    ),
    chat(
        {"tool_choice": "required"},
        "tool_choice is 'required'; allowed: auto or none without tools.",
        "tool_choice",
    ),
    chat(
        {"tools": [TOOL], "tool_choice": {}},
        f"tool_choice is {{}}; allowed: {CHOICES}.",
        "tool_choice",
    ),
    chat({"tool_choice": "maybe"}, f"tool_choice is 'maybe'; allowed: {CHOICES}.", "tool_choice"),
    chat(
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice is 'g'; allowed: one of the tools: f.",
        "tool_choice",
    ),
    chat(
        {"tools": [TOOL], "tool_choice": {"type": "function"}},
        "tool_choice.function.name is missing; give the name of one of the tools.",
        "tool_choice.function.name",
        code="missing_required_parameter",
    ),
    chat(
        {
            "tools": [TOOL],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "none"}},
        },
        "tool_choice.allowed_tools.mode is 'none'; allowed: auto or required.",
        "tool_choice.allowed_tools.mode",
    ),
    chat(
        {"thinking_token_budget": 5},
        "thinking_token_budget is not supported: reasoning has no limit of its own. Use max_completion_tokens.",
        "thinking_token_budget",
        code="unsupported_parameter",
    ),
    chat(
        {"functions": [{"name": "f"}]},
        "functions is not supported: the field is out of date. Use tools.",
        "functions",
        code="unsupported_parameter",
    ),
    chat(
        {"function_call": "auto"},
        "function_call is not supported: the field is out of date. Use tool_choice.",
        "function_call",
        code="unsupported_parameter",
    ),
    chat(
        {"prediction": "x"},
        "prediction is 'x'; allowed: an object with type and content.",
        "prediction",
    ),
    chat(
        {"prediction": {"type": "text", "content": "x"}},
        "prediction.type is 'text'; allowed: content.",
        "prediction.type",
    ),
    chat(
        {"prediction": {"type": "content", "content": [{"type": "image_url"}]}},
        "prediction.content[0].type is 'image_url'; allowed: text. This model takes text only.",
        "prediction.content[0].type",
    ),
    chat(
        {"audio": {"voice": "a"}},
        "audio is not supported: this model gives text only. Leave it out.",
        "audio",
        code="unsupported_parameter",
    ),
    chat({"modalities": ["audio"]}, 'modalities is ["audio"]; allowed: ["text"].', "modalities"),
    chat(
        {"web_search_options": {}},
        "web_search_options is not supported: there is no web search. Leave it out.",
        "web_search_options",
        code="unsupported_parameter",
    ),
    chat(
        {"moderation": {}},
        "moderation is not supported: there is no moderation. Leave it out.",
        "moderation",
        code="unsupported_parameter",
    ),
    chat(
        {"reasoning_effort": "high"},
        "reasoning_effort is not supported: this model's chat template does not read it. Leave it out or send none.",
        "reasoning_effort",
        code="unsupported_parameter",
    ),
    chat(
        {"verbosity": "low"},
        "verbosity is not supported: this model's chat template does not read it. Leave it out or send medium.",
        "verbosity",
        code="unsupported_parameter",
    ),
    chat(
        {"service_tier": "gold"},
        "service_tier is 'gold'; allowed: auto, default, flex, scale, priority or fast.",
        "service_tier",
    ),
    chat(
        {"metadata": {"a": 1}},
        'metadata is {"a": 1}; allowed: at most 16 strings with names.',
        "metadata",
    ),
    chat(
        {"metadata": {str(i): "" for i in range(17)}},
        "metadata has 17 pairs; allowed: at most 16.",
        "metadata",
    ),
    chat(
        {"metadata": {"a" * 65: ""}},
        "metadata has a name of 65 and a value of 0 characters; allowed: names up to 64 and values up to 512.",
        "metadata",
    ),
    chat(
        {"structured_outputs": {"json": {}}, "response_format": {"type": "json_object"}},
        'structured_outputs is {"json": {}}; allowed: nothing beside the json_object asked for.',
        "structured_outputs",
    ),
    chat(
        {"structured_outputs": {}},
        "structured_outputs has none of them; allowed: exactly one of json, json_object, regex, choice, grammar.",
        "structured_outputs",
    ),
    chat(
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        "structured_outputs has regex, choice; allowed: exactly one of json, json_object, regex, choice, grammar.",
        "structured_outputs",
    ),
    chat(
        {"structured_outputs": {"choice": [1]}},
        "structured_outputs.choice is [1]; allowed: a list of at least one text, none of them empty.",
        "structured_outputs.choice",
    ),
    chat(
        {"structured_outputs": {"regex": 3}},
        "structured_outputs.regex is 3; allowed: a string that is not empty.",
        "structured_outputs.regex",
    ),
    chat(
        {"structured_outputs": "json"},
        "structured_outputs is 'json'; allowed: an object with one of json, json_object, regex, choice and grammar.",
        "structured_outputs",
    ),
    chat(
        {"structured_outputs": {"structural_tag": "{}"}},
        f"structured_outputs.structural_tag is not supported: {_NO_PARTS}",
        "structured_outputs.structural_tag",
        code="unsupported_parameter",
    ),
    chat(
        {"structured_outputs": {"json": {}, "whitespace_pattern": " ?"}},
        "structured_outputs.whitespace_pattern is not supported: Use disable_any_whitespace.",
        "structured_outputs.whitespace_pattern",
        code="unsupported_parameter",
    ),
    chat(
        {"guided_json": {}},
        'guided_json is not supported: the name is out of date. Use structured_outputs: {"json": ...}.',
        "guided_json",
        code="unsupported_parameter",
    ),
    chat(
        {"grammar": 'root ::= "a"'},
        'grammar is not supported: it is a field of llama.cpp. Use structured_outputs: {"grammar": ...}.',
        "grammar",
        code="unsupported_parameter",
    ),
    chat(
        {"repeat_penalty": 1.1},
        "repeat_penalty is not supported: it is a field of llama.cpp. Use repetition_penalty.",
        "repeat_penalty",
        code="unsupported_parameter",
    ),
    chat(
        {"use_beam_search": True},
        "use_beam_search is not supported: there is no beam search. Use n with a temperature.",
        "use_beam_search",
        code="unsupported_parameter",
    ),
    chat(
        {"length_penalty": 2},
        "length_penalty is not supported: it belongs to beam search, which is not served. Leave it out.",
        "length_penalty",
        code="unsupported_parameter",
    ),
    chat(
        {"echo": True},
        "echo is not supported: put the beginning of the answer in a last assistant message and set continue_final_message.",
        "echo",
        code="unsupported_parameter",
    ),
    chat(
        {"chat_template": "x"},
        "chat_template is not supported: the model's own template is used. Leave it out.",
        "chat_template",
        code="unsupported_parameter",
    ),
    chat(
        {"documents": [{}]},
        "documents is not supported: put the documents into the messages.",
        "documents",
        code="unsupported_parameter",
    ),
    chat(
        {"add_generation_prompt": True, "continue_final_message": True},
        "add_generation_prompt is true; allowed: false when continue_final_message is true.",
        "add_generation_prompt",
    ),
    chat(
        {"truncate_prompt_tokens": 0},
        "truncate_prompt_tokens is 0; allowed: a whole number, 1 or more; -1 is all that fit.",
        "truncate_prompt_tokens",
    ),
    chat(
        {"priority": "high"},
        "priority is 'high'; allowed: a whole number; lower runs earlier.",
        "priority",
    ),
    chat(
        {"request_id": "a b"},
        "request_id is 'a b'; allowed: 1 to 128 letters, digits and _ . : -.",
        "request_id",
    ),
    chat({"prompt_logprobs": 21}, "prompt_logprobs is 21; allowed: 0 to 20.", "prompt_logprobs"),
    text(
        {"prompt": None},
        "prompt is null; allowed: a string, a list of strings, a list of token ids, or a list of lists of token ids.",
        "prompt",
    ),
    text(
        {"prompt": []},
        "prompt is []; allowed: a string, a list of strings, a list of token ids, or a list of lists of token ids.",
        "prompt",
    ),
    text({"prompt": ""}, "prompt is ''; allowed: a text that is not empty.", "prompt"),
    text(
        {"prompt": 5},
        "prompt is 5; allowed: a string, a list of strings, a list of token ids, or a list of lists of token ids.",
        "prompt",
    ),
    text({"prompt": [1, "a"]}, "prompt[1] is 'a'; allowed: a token id (0 or more).", "prompt[1]"),
    text(
        {"prompt": ["a", 5]},
        "prompt[1] is 5; allowed: a string or a list of token ids, not empty.",
        "prompt[1]",
    ),
    text(
        {"prompt": ["a", []]},
        "prompt[1] is []; allowed: a string or a list of token ids, not empty.",
        "prompt[1]",
    ),
    text(
        {"prompt": [[1, -2]]},
        "prompt[0][1] is -2; allowed: a token id (0 or more).",
        "prompt[0][1]",
    ),
    text(
        {"prompt": [1.5]},
        "prompt[0] is 1.5; allowed: a string or a list of token ids, not empty.",
        "prompt[0]",
    ),
    text(
        {"prompt": ["x"] * 257},
        "prompt has 257 texts or lists; allowed: at most 256, this server's limit (max_prompts). Send several requests.",
        "prompt",
    ),
    BadInput(
        TEXT,
        {"model": "tiny"},
        "prompt is missing; give a string, a list of strings, a list of token ids, or a list of lists of token ids.",
        "prompt",
        code="missing_required_parameter",
    ),
    text({"logprobs": 21}, "logprobs is 21; allowed: 0 to 20.", "logprobs"),
    text({"logprobs": True}, "logprobs is true; allowed: a whole number from 0 to 20.", "logprobs"),
    text({"logprobs": 21, "echo": True}, "logprobs is 21; allowed: 0 to 20.", "logprobs"),
    text({"suffix": 1}, "suffix is 1; allowed: a string: what stands after the answer.", "suffix"),
    text(
        {"suffix": "x", "echo": True},
        "echo is true; allowed: false together with suffix.",
        "echo",
    ),
    text(
        {"suffix": "x", "prompt": [1, 2]},
        "prompt is [1, 2]; allowed: a text, together with suffix.",
        "prompt",
    ),
    text(
        {"best_of": 3},
        "best_of is not supported: answers are not ranked. Leave it out and choose among n answers.",
        "best_of",
        code="unsupported_parameter",
    ),
    text({"n": 3, "best_of": 2}, "best_of is 2; allowed: at least n (3).", "best_of"),
    text({"echo": "x"}, "echo is 'x'; allowed: true or false.", "echo"),
    text(
        {"max_tokens": 0},
        "max_tokens is 0; allowed: 1 or more; 0 together with echo.",
        "max_tokens",
    ),
    text({"max_tokens": -1, "echo": True}, "max_tokens is -1; allowed: 0 or more.", "max_tokens"),
    text(
        {"response_format": {"type": "xml"}},
        "response_format.type is 'xml'; allowed: text, json_object or json_schema.",
        "response_format.type",
    ),
    text(
        {"guided_regex": "a"},
        'guided_regex is not supported: the name is out of date. Use structured_outputs: {"regex": ...}.',
        "guided_regex",
        code="unsupported_parameter",
    ),
)

_MALFORMED = "The request body is not valid JSON: {}. Send a JSON object."
_TOO_DEEP = (
    "The request body nests lists and objects more than 64 deep, this server's limit "
    "(max_json_depth). Send a flatter body."
)
_NO_OBJECT = "The request body is {}; allowed: a JSON object."
_WRONG_TYPE = "Content-Type is {}; allowed: application/json. Send the body as JSON."

BAD_BODIES = (
    BadBody(b"{", _MALFORMED.format("Input data was truncated")),
    BadBody(b"", _MALFORMED.format("Input data was truncated")),
    BadBody(
        b'{"model": "tiny",}',
        _MALFORMED.format("JSON is malformed: trailing comma in object (byte 17)"),
    ),
    BadBody(b"\xff\xfe", _MALFORMED.format("JSON is malformed: invalid character (byte 0)")),
    BadBody(
        b'\xef\xbb\xbf{"model": "tiny",}',
        _MALFORMED.format("JSON is malformed: trailing comma in object (byte 20)"),
    ),
    BadBody(b'{"model": "t\xffny"}', _MALFORMED.format("JSON is malformed: not UTF-8 (byte 12)")),
    BadBody(
        b'\xef\xbb\xbf{"m\xe4del": "tiny"}',
        _MALFORMED.format("JSON is malformed: not UTF-8 (byte 6)"),
    ),
    BadBody(b'{"seed": NaN}', _MALFORMED.format("JSON is malformed: invalid character (byte 9)")),
    BadBody(b"[]", _NO_OBJECT.format("an array")),
    BadBody(b'"x"', _NO_OBJECT.format("a string")),
    BadBody(b"null", _NO_OBJECT.format("null")),
    BadBody(b"true", _NO_OBJECT.format("a boolean")),
    BadBody(b"12.5", _NO_OBJECT.format("a number")),
    BadBody(b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", _TOO_DEEP),
    BadBody(b"[" * 4000 + b"]" * 4000, _TOO_DEEP),
    BadBody(b'{"a":' * 1000 + b"1" + b"}" * 1000, _TOO_DEEP),
    BadBody(
        b"{}" + b" " * MAX_BODY_BYTES,
        "The request body has more than 8192 bytes, this server's limit (max_body_bytes). "
        "Send less, or raise the limit.",
        413,
    ),
    BadBody(b"{}", _WRONG_TYPE.format("'text/plain'"), 415, "text/plain; charset=utf-8"),
    BadBody(
        b"{}",
        _WRONG_TYPE.format("'application/x-www-form-urlencoded'"),
        415,
        "application/x-www-form-urlencoded",
    ),
    BadBody(b"{}", _WRONG_TYPE.format("missing"), 415, None),
)
