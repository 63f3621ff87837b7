"""What goes into the engine and what comes out. Frozen, plain data: they can cross a process.

In: Submit, Abort, Inspect, orders to the engine as a whole, LoadAdapter, UnloadAdapter, Stop. Out:
StepReport (core/step.py) after each step, Inspections, what became of orders and adapters, and one
EngineEnded last. The rest is between processes alone: how the engine process and the ranks of a
divided model start, forms, the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.activity import AnswerActivity
from headrace.core.config import EngineConfig
from headrace.core.frozen import frozen
from headrace.core.step import StepReport
from headrace.core.structured_outputs import StructuredOutputs
from headrace.sched.request_state import RequestSpec


@frozen
class ErrorRecord:
    """A HeadraceError on its way to another process: its class, its text, its fields."""

    kind: str
    message: str
    fields: Mapping[str, Any]


@frozen
class Submit:
    """Generate this answer."""

    spec: RequestSpec


@frozen
class Abort:
    """Nobody wants this answer any more. Unknown and ended ids are fine."""

    request_id: str


@frozen
class Inspect:
    """Say what runs and what waits, between two steps."""

    inspect_id: int


@frozen
class Inspection:
    """The answer to an Inspect."""

    inspect_id: int
    answers: tuple[AnswerActivity, ...]


@frozen
class PauseEngine:
    """Start no request until a ResumeEngine; with `keeps_running` go on with none either."""

    order_id: int
    keeps_running: bool
    clears_cache: bool


@frozen
class ResumeEngine:
    """Go on after a PauseEngine."""

    order_id: int


@frozen
class ResetPrefixes:
    """Forget cached prefixes; with `resets_running` stop those that hold blocks before."""

    order_id: int
    resets_running: bool


@frozen
class OrderDone:
    """The answer to one of the three. Of a pause it comes when nothing moves any more."""

    order_id: int
    is_done: bool


@frozen
class LoadAdapter:
    """Read and pack an adapter, between two steps."""

    load_id: int
    path: str


@frozen
class AdapterLoaded:
    """The answer to a LoadAdapter: what the adapter is, or why there is none. Units: bytes."""

    load_id: int
    sha256: str = ""
    rank: int = 0
    num_bytes: int = 0
    base_name: str = ""
    error: ErrorRecord | None = None


@frozen
class UnloadAdapter:
    """Let go of an adapter once no request runs with it. A LoadAdapter of it keeps it after all."""

    sha256: str


@frozen
class AdapterUnloaded:
    """The answer to an UnloadAdapter, when it is done."""

    sha256: str


@frozen
class Stop:
    """End the loop; what is unfinished stays so."""


@frozen
class EngineEnded:
    """The loop ended; nothing follows. `error` is None after a Stop."""

    error: str | None = None


EngineOrder = PauseEngine | ResumeEngine | ResetPrefixes
EngineMessage = Submit | Abort | Inspect | EngineOrder | LoadAdapter | UnloadAdapter | Stop
EngineReply = StepReport | Inspection | OrderDone | AdapterLoaded | AdapterUnloaded | EngineEnded


@frozen
class StartEngine:
    """The first message to an engine process. `engine` is resolved; `free_bytes` bound the plan.

    `cache_dir` keeps built tokenizers. `log_level` is a number of `logging`. `draft_path` is the
    file or folder of the draft model. Where it `is_first`, the adapters of the settings have to be
    there; later ones do without those that are gone.
    """

    path: str
    engine: EngineConfig
    free_bytes: int
    cache_dir: str
    log_level: int
    draft_path: str | None = None
    is_first: bool = True


@frozen
class EngineReady:
    """The first reply: the model runs. What the front process must know of it."""

    num_blocks: int
    block_size: int
    max_model_len: int
    total_bytes: int
    memory_plan: str
    kv_cache_dtype: str
    vocab_size: int
    vector_size: int
    ops: str


@frozen
class EngineNotStarted:
    """The first reply when there is no engine; nothing follows."""

    error: ErrorRecord


@frozen
class StartRank:
    """The first message to the process of a rank other than 0; else as StartEngine."""

    path: str
    engine: EngineConfig
    free_bytes: int
    rank: int
    log_level: int


@frozen
class RankPlanned:
    """How many blocks of KV cache a rank has room for. It waits for a RanksAgreed."""

    num_blocks: int


@frozen
class RanksAgreed:
    """How many blocks all ranks have, and where they meet: what RankGroup.join takes."""

    num_blocks: int
    address: str


@frozen
class RankReady:
    """A rank has its weights. What follows are steps (core/step.py), until a Stop."""


@frozen
class CheckForm:
    """Find out whether answers can be held to a form, and keep it compiled."""

    check_id: int
    form: StructuredOutputs


@frozen
class FormChecked:
    """`error` is None for a form that answers can be held to."""

    check_id: int
    error: ErrorRecord | None


@frozen
class LogLine:
    """A line of the engine process's log, for the log of the front process. `at_s`: Unix."""

    logger: str
    level: int
    text: str
    traceback: str | None = None
    at_s: float = 0.0


ToProcess = EngineMessage | StartEngine | StartRank | CheckForm
