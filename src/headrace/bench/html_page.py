"""The page of a load: one HTML file with its tables and plots, and nothing to fetch.

In: the JSON object of `load_report`. Out: the page's text. No script, no font, no image from
elsewhere; colours follow the reader's light or dark setting. Every text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from headrace.bench.load_plots import Figure, make_figures
from headrace.bench.load_table import (
    LATENCY_HEADINGS,
    fact_rows,
    latency_rows,
    notes,
    title_of,
)

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2128; --soft: #57606a; --rule: #d0d7de;
  --grid: #e7ebef; --first: #0a5fd0; --second: #b35900; --bad: #c4221a; --note: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e6eaef; --soft: #9aa5b1;
  --rule: #3a424c; --grid: #262d35; --first: #6cb0ff; --second: #f0a04b; --bad: #ff7b72;
  --note: #3a3117; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 1120px; padding: 24px 20px 48px; }
h1 { font-size: 1.45rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 28px 0 6px; } h3 { font-size: .95rem; margin: 0 0 2px; }
p { margin: 4px 0; } .soft, figcaption { color: var(--soft); font-size: .87rem; }
.note-box { background: var(--note); border-left: 4px solid var(--second); padding: 8px 12px;
  margin: 12px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: 4px 14px 4px 0; text-align: right;
  vertical-align: top; }
th { font-weight: 600; } th:first-child, td:first-child, .facts td { text-align: left; }
.facts td { overflow-wrap: anywhere; }
.figures { display: grid; gap: 22px; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; }
svg .tick, svg .axis { fill: var(--soft); } svg .legend { font-size: 13px; }
svg .grid { stroke: var(--grid); } svg .line { fill: none; stroke-width: 2; }
svg .line.first { stroke: var(--first); }
svg .dot { fill-opacity: .75; } svg .dot.first { fill: var(--first); }
svg .dot.second { fill: var(--second); } svg .cross { stroke: var(--bad); stroke-width: 2; }
svg .mark { fill: var(--page); stroke: var(--first); stroke-width: 2; }
svg .limit { stroke: var(--bad); stroke-dasharray: 5 4; stroke-width: 1.5; }
.key.first { color: var(--first); } .key.second { color: var(--second); }
.key.bad { color: var(--bad); }
"""


def render_page(report: Mapping[str, Any]) -> str:
    """The whole file."""
    title = title_of(report)
    when = datetime.fromtimestamp(report["started_unix_s"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    boxes = "".join(f'<p class="note-box">{escape(note)}</p>' for note in notes(report))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<p class="soft">{escape(when)}, headrace {escape(report["headrace_version"])}</p>
{boxes}
<h2>Latency</h2>
{_table(latency_rows(report), LATENCY_HEADINGS)}
<p class="soft">Counted from when a request was due. TTFT, TPOT and end to end: one value a request.
</p>
<h2>Totals</h2>
{_table(fact_rows(report))}
<h2>Plots</h2>
<div class="figures">
{"".join(map(_figure, make_figures(report)))}
</div>
<h2>Settings</h2>
{_table(_setting_rows(report))}
</body>
</html>
"""


def _table(rows: Iterable[Sequence[str]], headings: Sequence[str] = ()) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    css = "" if headings else ' class="facts"'
    top = f"<thead><tr>{head}</tr></thead>" if headings else ""
    return f'<div class="scroll"><table{css}>{top}<tbody>{body}</tbody></table></div>'


def _figure(figure: Figure) -> str:
    # Captions are this program's own words and hold markup for the key; nothing else does.
    return (
        f"<figure><h3>{escape(figure.heading)}</h3>{figure.svg}"
        f"<figcaption>{figure.caption}</figcaption></figure>\n"
    )


def _setting_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked for and who answered; what does not apply is left out."""
    shown = {**report["settings"], **{f"target {k}": v for k, v in report["target"].items()}}
    shown |= {"client CPU": report["client_cpu"], "Python": report["python_version"]}
    return [(name.replace("_", " "), _text(value)) for name, value in shown.items()
            if value is not None]  # fmt: skip


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(part)}" for name, part in value.items())
    return str(value)
