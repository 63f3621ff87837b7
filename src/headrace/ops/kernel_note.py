"""What an implementation says about itself: its ISA tiers, and which code computes which ops.

For people and for records of measurements; nothing is decided by it.
"""

from __future__ import annotations

from headrace.core.frozen import frozen


@frozen
class IsaStatus:
    """An ISA tier; `reason` says why it is not available, or is empty."""

    name: str
    is_available: bool
    reason: str


@frozen
class KernelNote:
    """One op family: what computes it, and why that.

    `formats` are the weights it is about; empty where the op reads none, or any.
    """

    family: str
    implementation: str
    reason: str
    formats: tuple[str, ...] = ()
