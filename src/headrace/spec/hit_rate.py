"""HitRate: how often drafted tokens were chosen, with a past that fades."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class HitRate:
    """Share of drafted tokens that were chosen, among those whose turn came."""

    num_hits: float = 0.0
    num_tried: float = 0.0

    def rate(self, prior: float, weight: float) -> float:
        """The share, with a prior that counts as much as `weight` tokens."""
        return (self.num_hits + weight * prior) / (self.num_tried + weight)

    def observe(self, num_hits: int, num_tried: int, fading: float) -> None:
        """Take in tokens. Mutates: self."""
        self.fade(fading)
        self.num_hits += num_hits
        self.num_tried += num_tried

    def fade(self, share: float) -> None:
        """Keep this share of what is known. Mutates: self."""
        self.num_hits *= share
        self.num_tried *= share
