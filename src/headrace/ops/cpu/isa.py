"""Which instruction set the CPU kernels use: what this machine offers, and the choice.

In: a wanted instruction set or None. Out: a name that runs here, or an error that says why not.
"""

from __future__ import annotations

from headrace import _cpu
from headrace.core.errors import ConfigError
from headrace.ops.kernel_note import IsaStatus


def all_isas() -> tuple[IsaStatus, ...]:
    """Every tier of this build, lowest first. Asks the system for AMX tiles on the first call."""
    return tuple(IsaStatus(*status) for status in _cpu.isas())


def supported_isas() -> tuple[str, ...]:
    """Tiers that run here, lowest first."""
    return tuple(status.name for status in all_isas() if status.is_available)


def choose_isa(wanted: str | None = None) -> str:
    """The wanted tier, or the highest that runs here.

    Raises: ConfigError when the wanted one is unknown or cannot run here.
    """
    supported = supported_isas()
    if wanted is None:
        return supported[-1]
    if wanted in supported:
        return wanted
    reasons = {status.name: status.reason for status in all_isas()}
    why = reasons.get(wanted)
    hint = f"{wanted} cannot run here: {why}." if why else "Leave it out to take the highest."
    raise ConfigError("isa", wanted, ", ".join(supported), hint)
