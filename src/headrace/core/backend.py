"""Backend: whatever answers requests (engine, upstream, router, fake)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import field
from typing import Literal, Protocol, runtime_checkable

from headrace.core.frozen import frozen
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest, Pooling
from headrace.core.scores import ProblemType

ModelKind = Literal["generate", "embed", "classify"]
PauseMode = Literal["abort", "wait", "keep"]


@frozen
class ModelInfo:
    """A served model. Units: `created` unix seconds, `max_model_len` tokens.

    `created` of a model's file is when it was written: loading it again changes nothing.
    `template_variables` are the names its chat template reads beside messages and tools;
    `reads_message_names`: it may read the `name` of a message.
    `has_reasoning`: its chat template knows marks of reasoning. `vector_size` is the length of
    its hidden states. `provider` is whose prices hold for it; `local` is this machine. `kind`:
    it answers, makes vectors and nothing else, or classifies; `pooling` is what makes its
    vectors where a request does not say. `prompts` are texts by name that may go before an
    input, `default_prompt_name` the one that does where a request names none. `labels` and
    `problem_type` are those of a head. `keeps_answers`: in a cache that a request may steer by
    `cache`. An adapter's `parent` is the model it was loaded over, and
    `adapter_sha256` the digest of its file. `max_retries`: so many times its server may be asked
    again for one answer, and each try may be billed.
    """

    name: str
    max_model_len: int
    created: int
    root: str
    has_chat_template: bool = True
    template_variables: frozenset[str] = frozenset()
    reads_message_names: bool = True
    has_reasoning: bool = False
    vector_size: int = 0
    provider: str = "local"
    kind: ModelKind = "generate"
    pooling: Pooling = "last"
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    labels: tuple[str, ...] = ()
    problem_type: ProblemType | None = None
    parent: str | None = None
    adapter_sha256: str | None = None
    keeps_answers: bool = False
    max_retries: int = 0


@frozen
class Health:
    """`ready` means that tokens can move.

    `is_recovering`: they will again; requests are taken meanwhile and wait.
    """

    status: Literal["starting", "ready", "paused", "stalled", "draining", "dead"]
    detail: str = ""
    is_recovering: bool = False


@frozen
class TokenizerInfo:
    """What a model's tokenizer is. `special_tokens` are texts by name, such as bos_token."""

    vocab_size: int
    special_tokens: Mapping[str, str]
    eos_token_ids: tuple[int, ...]
    adds_bos: bool
    chat_template: str | None


class ModelText(Protocol):
    """The text side of a model: prompts to token ids and back, without generating."""

    async def encode(self, request: GenerateRequest) -> tuple[int, ...]:
        """Token ids of the request's prompt, however many.

        Raises: RequestError.
        """
        ...

    async def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, control tokens included. Raises: InvalidParameter."""
        ...

    async def token_texts(self, token_ids: Sequence[int]) -> tuple[str, ...]:
        """The text of each token. Raises: InvalidParameter."""
        ...

    def info(self) -> TokenizerInfo: ...


class Backend(Protocol):
    """Answers generation requests."""

    def models(self) -> Sequence[ModelInfo]:
        """The models served, the default one first."""
        ...

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """Admit the request, then return its stream; closing the stream aborts the request.

        Raises: RequestError, CapacityError, BackendError before the stream exists; in it,
        BackendError.
        """
        ...

    def text(self, model: str) -> ModelText:
        """The text side of a model. Raises: ModelNotFound."""
        ...

    def health(self) -> Health: ...


@runtime_checkable
class ModelHealths(Protocol):
    """A Backend that knows how each of its models is, and not only whether one of them answers."""

    def health_of(self, name: str) -> Health | None:
        """None while it is not in memory: the next request has it loaded. Raises: ModelNotFound."""
        ...


def health_of(backend: Backend, name: str) -> Health | None:
    """See ModelHealths. A backend that does not tell them apart is as each of its models is."""
    return backend.health_of(name) if isinstance(backend, ModelHealths) else backend.health()


@runtime_checkable
class ModelControl(Protocol):
    """A Backend whose models are loaded and unloaded while it runs. All raise ModelNotFound."""

    def loaded(self) -> Sequence[str]:
        """Names of the models in memory."""
        ...

    async def load(self, name: str) -> None:
        """Have a model in memory. Raises: BackendError."""
        ...

    async def unload(self, name: str) -> None:
        """Free a model's memory once its requests have ended."""
        ...

    async def replace(self, name: str) -> None:
        """Load a model's files anew. Raises: BackendError."""
        ...


@runtime_checkable
class EngineControl(Protocol):
    """A Backend whose engines are paused and resumed while it runs.

    `name` is a model's, None every model's. All raise ModelNotFound and BackendError.
    """

    async def pause(self, name: str | None, mode: PauseMode, *, clear_cache: bool = True) -> bool:
        """Start no request until `resume`; those that come wait in the queue.

        `abort` ends all others with an error, `wait` lets those that run end, `keep` has them stand
        still. Returns when nothing moves any more: true, or false where it was resumed before.
        `clear_cache` then forgets cached prefixes, except with `keep`.
        """
        ...

    async def resume(self, name: str | None) -> None:
        """Go on after a pause. Without one nothing happens."""
        ...

    def is_paused(self, name: str | None) -> bool:
        """Whether the model, or every one, is paused."""
        ...

    async def reset_prefix_cache(self, name: str | None, *, reset_running: bool = False) -> bool:
        """Forget cached prefixes; false, and no change, while requests run that hold blocks.

        With `reset_running` those are stopped first and computed again, to the same answer.
        """
        ...


@runtime_checkable
class AdapterControl(Protocol):
    """A Backend whose models take adapters, which are further models, while it runs."""

    async def load_adapter(
        self, name: str, path: str, *, base: str | None = None, is_replacing: bool = False
    ) -> ModelInfo:
        """Read an adapter's files and serve it as `name`, over `base` or the first model.

        With `is_replacing` the name may be an adapter's already: its requests end on what they
        began with. Raises: InvalidParameter, ModelNotFound, ModelFileError, OutOfMemory,
        BackendError.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Take no more requests for it, and free its memory once its last one has ended.

        Raises: ModelNotFound, BackendError.
        """
        ...
