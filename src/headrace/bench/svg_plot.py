"""A plot as inline SVG: axes with round ticks, lines, dots, crosses, marked limits.

In: numbers in the plot's own units. Out: an `<svg>` element without style of its own; the page's
CSS colours it by class, so that light and dark need no second drawing. Knows nothing of requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from headrace.core.frozen import frozen

Point = tuple[float, float]
WIDTH, HEIGHT = 520, 280
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 18, 44


@frozen
class Axis:
    """From `low` to `high`; a label names the unit."""

    label: str
    low: float
    high: float

    def share(self, value: float) -> float:
        """Where a value lies, 0 to 1; outside values stay on the edge."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def ticks(self, count: int = 6) -> list[float]:
        """About `count` round numbers within."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def axis_for(label: str, values: Sequence[float]) -> Axis:
    """From 0 to a little above the largest value."""
    high = max(values, default=0.0)
    return Axis(label, 0.0, high * 1.05 if high > 0 else 1.0)


@dataclass(slots=True)
class Plot:
    """Collects shapes. `title` is read out where the picture cannot be seen."""

    title: str
    x: Axis
    y: Axis
    _shapes: list[str] = field(default_factory=list)

    def line(self, points: Sequence[Point], css: str) -> None:
        """A line through the points."""
        path = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in points)
        self._shapes.append(f'<polyline class="line {css}" points="{path}"/>')

    def steps(self, points: Sequence[Point], css: str) -> None:
        """A line that keeps each value until the next point."""
        corners: list[Point] = []
        for x, y in points:
            if corners:
                corners.append((x, corners[-1][1]))
            corners.append((x, y))
        self.line(corners, css)

    def dots(self, points: Sequence[Point], css: str) -> None:
        for x, y in points:
            self._shapes.append(
                f'<circle class="dot {css}" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="2.6"/>'
            )

    def crosses(self, points: Sequence[Point], css: str) -> None:
        """Crosses are for what failed: told from dots without colour."""
        for x, y in points:
            a, b = self._x(x), self._y(y)
            arms = f"M{a - 4:.1f},{b - 4:.1f}l8,8m0,-8l-8,8"
            self._shapes.append(f'<path class="cross {css}" d="{arms}"/>')

    def mark(self, x: float, y: float) -> None:
        """A ring around a point of a line."""
        self._shapes.append(
            f'<circle class="mark" cx="{self._x(x):.1f}" cy="{self._y(y):.1f}" r="4"/>'
        )

    def legend(self, lines: Sequence[str]) -> None:
        """Words in the lower right corner, which a curve that rises from the left leaves free."""
        for number, text in enumerate(reversed(lines)):
            b = HEIGHT - BOTTOM - 10 - 16 * number
            self._shapes.append(
                f'<text class="legend" text-anchor="end" x="{WIDTH - RIGHT - 8}" y="{b}">'
                f"{escape(text)}</text>"
            )

    def limit(self, x: float, text: str) -> None:
        """A vertical line that values should stay left of; nothing when it is out of sight."""
        if not self.x.low <= x <= self.x.high:
            return
        a = self._x(x)
        self._shapes.append(
            f'<line class="limit" x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
            f'<text class="note" text-anchor="middle" x="{a:.1f}" y="{TOP - 5}">'
            f"{escape(text)}</text>"
        )

    def svg(self) -> str:
        """The whole picture."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}">'
            f"<title>{escape(self.title)}</title>{self._axes()}{''.join(self._shapes)}</svg>"
        )

    def _axes(self) -> str:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for tick in self.x.ticks():
            a = self._x(tick)
            parts.append(f'<line class="grid" x1="{a:.1f}" x2="{a:.1f}" y1="{TOP}" y2="{bottom}"/>')
            parts.append(
                f'<text class="tick" text-anchor="middle" x="{a:.1f}" y="{bottom + 16}">'
                f"{_number(tick)}</text>"
            )
        for tick in self.y.ticks(5):
            b = self._y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{b:.1f}" y2="{b:.1f}"/>')
            parts.append(
                f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{b + 4:.1f}">'
                f"{_number(tick)}</text>"
            )
        middle = (LEFT + right) / 2
        parts.append(
            f'<text class="axis" text-anchor="middle" x="{middle}" y="{HEIGHT - 8}">'
            f"{escape(self.x.label)}</text>"
        )
        parts.append(
            f'<text class="axis" text-anchor="middle" transform="translate(13 '
            f'{(TOP + bottom) / 2}) rotate(-90)">{escape(self.y.label)}</text>'
        )
        return "".join(parts)

    def _x(self, value: float) -> float:
        return LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)

    def _y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}"
