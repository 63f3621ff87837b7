"""What can be said of a request without asking a model: length, tools, form, code, language.

In: a request. Out: a frozen record that rules and scores read. Cheap: it looks at the last message
and at lengths. Decides nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from headrace.core.frozen import frozen
from headrace.core.request import GenerateRequest
from headrace.economics.token_estimate import estimate_input_tokens

MAX_TEXT = 20_000
"""Characters of the last message that are looked at."""

# No run is looked at twice from its every place: callers choose the text.
_CODE = re.compile(
    r"```"
    r"|^[ \t]{0,64}(?:def|class|import|from|func|fn|public|private|static|const|let|var|package"
    r"|using|return|#include|SELECT)\b.*[:;({=>]"
    r"|[{};][ \t]{0,64}$|\w\+\+|[-+*]=|</[a-z]+>|\w ?\([^\n]{0,200}\)\s{0,8}[;{]|=>|->|::|!=|==|&&",
    re.MULTILINE,
)
# Blocks of Unicode: their first characters and what languages are written in them.
_SCRIPTS: tuple[tuple[str, int, int], ...] = (
    ("greek", 0x370, 0x3FF),
    ("cyrillic", 0x400, 0x52F),
    ("hebrew", 0x590, 0x5FF),
    ("arabic", 0x600, 0x6FF),
    ("devanagari", 0x900, 0x97F),
    ("thai", 0xE00, 0xE7F),
    ("kana", 0x3040, 0x30FF),
    ("han", 0x4E00, 0x9FFF),
    ("hangul", 0xAC00, 0xD7AF),
)
_SCRIPT_LANGUAGES = {"greek": "el", "hebrew": "he", "thai": "th", "kana": "ja", "hangul": "ko"}
# Words that are frequent in one language and rare in the others.
_FREQUENT = {
    "en": "the and of to is that with for this are was what how you it",
    "de": "der die das und ist nicht ein eine mit für auf den wie ich zu",
    "fr": "le la les et est une des que pour dans pas qui vous du ce",
    "es": "el los las y es una que para por con como del se lo qué",
    "it": "il gli e è una che per con non di come della sono nel lo",
    "pt": "o os as e é uma que para com não do da como em um",
    "nl": "de het een en is niet van dat met voor op wat hoe ik te",
}
_WORDS: Mapping[str, frozenset[str]] = {
    name: frozenset(text.split()) for name, text in _FREQUENT.items()
}
MIN_WORDS = 3


@frozen
class RequestFacts:
    """Units: tokens, by the prompt's bytes.

    `languages` are those of the last message: its script, and its language where that can be told.
    """

    num_input_tokens: int
    num_messages: int
    has_tools: bool
    has_form: bool
    has_code: bool
    languages: frozenset[str]
    text: str


def wants_tools(request: GenerateRequest) -> bool:
    """Whether an answer may be calls of tools."""
    return bool(request.tools) and request.tool_choice.mode != "none"


def read_facts(request: GenerateRequest) -> RequestFacts:
    """Look at a request."""
    text = last_text(request)
    return RequestFacts(
        num_input_tokens=estimate_input_tokens(request),
        num_messages=len(request.messages or ()),
        has_tools=wants_tools(request),
        has_form=request.sampling.structured_outputs is not None,
        has_code=_CODE.search(text) is not None,
        languages=_languages(text),
        text=text,
    )


def last_text(request: GenerateRequest) -> str:
    """The last message of the caller, or the prompt; empty where that is tokens."""
    if request.messages is not None:
        said = [m.content or "" for m in request.messages if m.role == "user"]
        return said[-1][:MAX_TEXT] if said else ""
    return request.prompt[:MAX_TEXT] if isinstance(request.prompt, str) else ""


def _languages(text: str) -> frozenset[str]:
    scripts = Counter(_script(character) for character in text if character.isalpha())
    if not scripts:
        return frozenset()
    script, _ = scripts.most_common(1)[0]
    # Japanese has more Han than kana, Chinese has no kana.
    if script == "han" and scripts["kana"]:
        script = "kana"
    found = {script}
    if script in _SCRIPT_LANGUAGES:
        found.add(_SCRIPT_LANGUAGES[script])
    elif script == "han":
        found.add("zh")
    elif script == "latin":
        found |= _latin_language(text)
    return frozenset(found)


def _script(character: str) -> str:
    point = ord(character)
    if point < 0x250:
        return "latin"
    return next((name for name, first, last in _SCRIPTS if first <= point <= last), "other")


def _latin_language(text: str) -> set[str]:
    """The language whose frequent words are the most; none where too few are there."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = {name: sum(word in known for word in words) for name, known in _WORDS.items()}
    ranked = sorted(counts.items(), key=lambda pair: -pair[1])
    (best, most), (_, second) = ranked[0], ranked[1]
    return {best} if most >= MIN_WORDS and most > second else set()
