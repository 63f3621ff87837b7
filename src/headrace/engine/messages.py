"""What goes into the engine and what comes out. Frozen, plain data: they can cross a process.

In: Submit, Abort, Stop. Out: StepReport (core/step.py) after each step, and one EngineEnded last.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.core.step import StepReport
from headrace.sched.request_state import RequestSpec


@dataclass(frozen=True, slots=True)
class Submit:
    """Generate this answer."""

    spec: RequestSpec


@dataclass(frozen=True, slots=True)
class Abort:
    """Nobody wants this answer any more. Unknown and ended ids are fine."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the loop; what is unfinished stays so."""


@dataclass(frozen=True, slots=True)
class EngineEnded:
    """The loop ended; nothing follows. `error` is None after a Stop."""

    error: str | None = None


EngineMessage = Submit | Abort | Stop
EngineReply = StepReport | EngineEnded
