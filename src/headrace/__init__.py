"""headrace: inference of language models. Public names are loaded on first use.

`import headrace` costs a few milliseconds; the engine is imported when `headrace.LLM` is touched.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module of types takes longer to load than everything here
    from typing import Any

_PUBLIC = {
    "LLM": "headrace.llm",
    "Embedder": "headrace.embedder",
    "Completion": "headrace.llm",
    "Generation": "headrace.llm",
    "SamplingParams": "headrace.core.request",
    "StructuredOutputs": "headrace.core.structured_outputs",
    "Message": "headrace.core.message",
    "Tool": "headrace.core.message",
    "ToolCall": "headrace.core.message",
    "RequestOutput": "headrace.core.output",
    "Usage": "headrace.core.usage",
    "HeadraceError": "headrace.core.errors",
    "RequestError": "headrace.core.errors",
    "CapacityError": "headrace.core.errors",
    "Config": "headrace.core.config",
    "EngineConfig": "headrace.core.config",
    "open_engine": "headrace.launch.backends",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
