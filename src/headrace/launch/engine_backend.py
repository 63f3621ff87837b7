"""EngineBackend: a Backend around one model's engine, wherever that runs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from headrace.core.activity import ModelActivity
from headrace.core.backend import Backend, Health, ModelInfo, ModelText, PauseMode
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.core.telemetry import MetricSink
from headrace.hub.model_store import LocalModel
from headrace.text.chat_template import ChatTemplate
from headrace.text.reasoning import find_reasoning_marks
from headrace.weights.sentence_config import language_model_sentence

MakeSink = Callable[[str], MetricSink]


class RunningEngine(Backend, Protocol):
    """An engine of one model: AsyncEngine, or EncoderEngine."""

    async def start(self) -> None:
        """Start the threads."""
        ...

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those that run; False when some are left."""
        ...

    async def stop(self) -> None:
        """End what runs."""
        ...

    async def activity(self) -> list[ModelActivity]:
        """See core.activity.Inspectable."""
        ...

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """See core.backend.AdapterControl."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        ...

    def pause(self, mode: PauseMode, *, clear_cache: bool = True) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        ...

    def resume(self) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        ...

    def reset_prefix_cache(self, *, reset_running: bool = False) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        ...


class EngineBackend:
    """The engine and what people ask of it: its plan, and what computes, for records."""

    def __init__(
        self,
        engine: RunningEngine,
        total_bytes: int,
        memory_plan: str,
        environment: Mapping[str, Any],
    ) -> None:
        self._engine = engine
        self.total_bytes, self.memory_plan = total_bytes, memory_plan
        self.environment = dict(environment)
        self.model_info = engine.models()[0]

    async def start(self) -> None:
        """Start the engine's threads."""
        await self._engine.start()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests and wait for those that run; False when some are left."""
        return await self._engine.drain(timeout_s)

    async def stop(self) -> None:
        """End what runs. Calling it twice is harmless."""
        await self._engine.stop()

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """See core.backend.AdapterControl."""
        return await self._engine.load_adapter(name, path, base=base, is_replacing=is_replacing)

    async def unload_adapter(self, name: str) -> None:
        """See core.backend.AdapterControl."""
        await self._engine.unload_adapter(name)

    def pause(self, mode: PauseMode, *, clear_cache: bool = True) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        return self._engine.pause(mode, clear_cache=clear_cache)

    def resume(self) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        return self._engine.resume()

    def reset_prefix_cache(self, *, reset_running: bool = False) -> Awaitable[bool]:
        """See core.backend.EngineControl."""
        return self._engine.reset_prefix_cache(reset_running=reset_running)

    def models(self) -> Sequence[ModelInfo]:
        """See core.backend.Backend."""
        return self._engine.models()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend."""
        return await self._engine.generate(request)

    async def activity(self) -> list[ModelActivity]:
        """See core.activity.Inspectable."""
        return await self._engine.activity()

    def text(self, model: str) -> ModelText:
        """See core.backend.Backend."""
        return self._engine.text(model)

    def health(self) -> Health:
        """See core.backend.Backend."""
        return self._engine.health()


def model_info(
    local: LocalModel,
    max_model_len: int,
    vector_size: int,
    template: ChatTemplate | None,
) -> ModelInfo:
    """What callers are told of a model."""
    sentence = language_model_sentence(local.path)
    return ModelInfo(
        name=local.name,
        max_model_len=max_model_len,
        created=local.changed_s,
        root=local.path.name,
        has_chat_template=template is not None,
        template_variables=template.variables if template else frozenset(),
        reads_message_names=template is not None and template.reads_message_names,
        has_reasoning=template is not None and find_reasoning_marks(template.source) is not None,
        vector_size=vector_size,
        pooling=sentence.pooling,
        prompts=sentence.prompts,
        default_prompt_name=sentence.default_prompt_name,
    )
