"""Charts of a plan as inline SVG: bars in groups, dots with names, an axis with round ticks.

In: numbers and names. Out: an `<svg>` element without style of its own; the page's CSS colours it
by class, so that light and dark need no second drawing. Every text is escaped. Knows no plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from headrace.core.frozen import frozen
from headrace.core.units import format_number

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 640, 66, 20, 18, 46
ROW, GAP = 17, 12
DOTS_HEIGHT = 320


@frozen
class Bar:
    """A bar and what stands at its end. `css` is its colour's class."""

    value: float
    label: str
    css: str


@frozen
class Dot:
    """A dot with its name and, up and down, the interval of its y."""

    x: float
    y: float
    low: float
    high: float
    name: str
    css: str


def bars(title: str, groups: Sequence[tuple[str, Sequence[Bar]]], unit: str) -> str:
    """Bars to the right, a group for each name."""
    most = max((bar.value for _, group in groups for bar in group), default=0.0) or 1.0
    left, right, y, parts = 150, 130, TOP, []
    for name, group in groups:
        height = len(group) * ROW
        parts.append(_text(left - 8, y + height / 2 + 4, name, "axis", "end"))
        for bar in group:
            width = max(1.0, (WIDTH - left - right) * bar.value / most)
            parts.append(
                f'<rect class="bar {bar.css}" x="{left}" y="{y + 2}" width="{width:.1f}" '
                f'height="{ROW - 4}"/>'
            )
            parts.append(_text(left + width + 6, y + ROW - 5, bar.label, "tick", "start"))
            y += ROW
        y += GAP
    parts.append(_text(left, y + 10, unit, "axis", "start"))
    return _svg(title, y + 20, parts)


def dots(
    title: str, points: Sequence[Dot], x_label: str, y_label: str, lines: Sequence[float] = ()
) -> str:
    """Dots over two axes; `lines` are limits of y, drawn across."""
    x_high = 1.1 * max((dot.x for dot in points), default=0.0) or 1.0
    y_high = min(1.0, 1.1 * max((*(dot.high for dot in points), *lines), default=0.0)) or 1.0
    bottom = DOTS_HEIGHT - BOTTOM

    def at(x: float, y: float) -> tuple[float, float]:
        share = min(1.0, max(0.0, y / y_high))
        return LEFT + x / x_high * (WIDTH - LEFT - RIGHT), bottom - share * (bottom - TOP)

    parts = [_grid(x_high, y_high, at), _axis_names(x_label, y_label, bottom)]
    for limit in lines:
        _, y = at(0, limit)
        parts.append(
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
    for dot in points:
        x, y = at(dot.x, dot.y)
        low, high = at(dot.x, dot.low)[1], at(dot.x, dot.high)[1]
        parts.append(
            f'<line class="whisker {dot.css}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" '
            f'y2="{high:.1f}"/><circle class="dot {dot.css}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        )
        shift, anchor = (-8, "end") if x > WIDTH * 0.7 else (8, "start")
        parts.append(_text(x + shift, y - 6, dot.name, "tick", anchor))
    return _svg(title, DOTS_HEIGHT, parts)


def ticks(high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from 0 to `high`."""
    raw = high / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return [number * step for number in range(math.floor(high / step + 1e-9) + 1)]


def _grid(x_high: float, y_high: float, at: Callable[[float, float], tuple[float, float]]) -> str:
    parts = []
    bottom = DOTS_HEIGHT - BOTTOM
    for tick in ticks(x_high):
        x, _ = at(tick, 0)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 16, _number(tick), "tick", "middle"))
    for tick in ticks(y_high):
        _, y = at(0, tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(LEFT - 6, y + 4, _number(tick), "tick", "end"))
    return "".join(parts)


def _axis_names(x_label: str, y_label: str, bottom: float) -> str:
    middle = (TOP + bottom) / 2
    return _text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, x_label, "axis", "middle") + (
        f'<text class="axis" text-anchor="middle" transform="translate(14 {middle}) '
        f'rotate(-90)">{escape(y_label)}</text>'
    )


def _text(x: float, y: float, text: str, css: str, anchor: str) -> str:
    return (
        f'<text class="{css}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    )


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else format_number(value, 4)
