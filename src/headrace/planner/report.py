"""The page of a plan: one HTML file with tables and charts, and nothing to fetch.

In: plans of one profile. Out: the page's text. No script, no font, no image from elsewhere; colours
follow the reader's light or dark setting. Every text from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from headrace.planner.agreement import Agreement, agreements
from headrace.planner.options import Option
from headrace.planner.plan import WorkloadPlan
from headrace.planner.plan_text import (
    AGREEMENT_HEADINGS,
    BOUND_HEADINGS,
    MOVE_HEADINGS,
    QUALITY_HEADINGS,
    Row,
    agreement_rows,
    agreement_sentences,
    assumptions,
    bound_rows,
    conclusions,
    dollars,
    move_rows,
    quality_rows,
)
from headrace.planner.profile import Profile
from headrace.planner.svg_chart import Bar, Dot, bars, dots
from headrace.planner.workload import Workload

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2128; --soft: #57606a; --rule: #d0d7de;
  --grid: #e7ebef; --first: #0a5fd0; --second: #b35900; --third: #2a7d46; --bad: #c4221a;
  --note: #eef4ff; }
@media (prefers-color-scheme: dark) { :root { --page: #14181d; --ink: #e6eaef; --soft: #9aa5b1;
  --rule: #3a424c; --grid: #262d35; --first: #6cb0ff; --second: #f0a04b; --third: #6fd08f;
  --bad: #ff7b72; --note: #1b2a3f; } }
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 1180px; padding: 24px 20px 48px; }
h1 { font-size: 1.5rem; margin: 0 0 4px; } h2 { font-size: 1.2rem; margin: 40px 0 6px; }
h3 { font-size: 1rem; margin: 24px 0 4px; }
p, li { margin: 4px 0; } .soft, figcaption { color: var(--soft); font-size: .87rem; }
.answer { background: var(--note); border-left: 4px solid var(--first); padding: 8px 16px; }
.answer ul { padding-left: 18px; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--rule); padding: 4px 14px 4px 0; text-align: left;
  vertical-align: top; } th { font-weight: 600; }
.figures { display: grid; gap: 26px; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); }
figure { margin: 0; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .axis { font-size: 12px; }
svg .tick { fill: var(--soft); } svg .grid { stroke: var(--grid); }
svg .limit { stroke: var(--bad); stroke-dasharray: 5 4; } svg .whisker { stroke-width: 1.5; }
svg .first { fill: var(--first); stroke: var(--first); }
svg .second { fill: var(--second); stroke: var(--second); }
svg .third { fill: var(--third); stroke: var(--third); }
svg .bad { fill: var(--bad); stroke: var(--bad); } svg .bar { stroke: none; }
"""
_COLOURS = ("first", "second", "third")


def render_report(plans: Sequence[WorkloadPlan], profile: Profile) -> str:
    """The whole file."""
    workload = profile.workload
    sections = "".join(_section(plan, profile) for plan in plans)
    sections += _judges(list(agreements(profile)))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(workload.name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(workload.name)}</h1>
<p class="soft">Workload {escape(workload.digest)}, written by headrace plan.</p>
{sections}
</body>
</html>
"""


def _section(plan: WorkloadPlan, profile: Profile) -> str:
    workload = profile.workload
    return f"""<h2>{escape(plan.scenario.name)}</h2>
<div class="answer">{_list(conclusions(plan, workload))}</div>
<div class="figures">
{"".join(_figures(plan, workload))}
</div>
<h3>What each task costs today</h3>
<p class="soft">Its share is what moving it away saves at most, were the other tier free.</p>
{_table(BOUND_HEADINGS, bound_rows(plan, workload))}
<h3>Quality, latency and cost as measured</h3>
{_table(QUALITY_HEADINGS, quality_rows(plan, workload))}
<h3>Single moves</h3>
{_table(MOVE_HEADINGS, move_rows(plan))}
<h3>Assumptions</h3>
{_list(assumptions(plan, profile))}
"""


def _judges(found: Sequence[Agreement]) -> str:
    if not found:
        return ""
    return f"""<h2>Judges beside metrics</h2>
<p class="soft">Pairs of answers to the same samples, each compared in both orders.</p>
{_table(AGREEMENT_HEADINGS, agreement_rows(found))}
{_list(agreement_sentences(found))}
"""


def _figures(plan: WorkloadPlan, workload: Workload) -> Iterator[str]:
    yield _figure("Cost of each task", _costs(plan, workload), "USD a day, by set of moves.")
    for name, task in workload.tasks.items():
        found = list(_frontier(plan, workload, name))
        if not found:
            continue
        floors = () if task.floor.least is None else (task.floor.least,)
        yield _figure(
            f"Quality against cost: {name}",
            dots(f"Quality of {name} over cost", found, "USD per 1000 calls", "score", floors),
            "With intervals; a dashed line is the floor. Lower right is dear and bad.",
        )
    latency = _latencies(plan)
    if latency:
        yield _figure(
            "Latency of whole answers",
            bars("Latency by task and tier", latency, "seconds"),
            "At the percent of each objective, 95 where there is none; one call measured at a time "
            "unless the assumptions say otherwise.",
        )


def _costs(plan: WorkloadPlan, workload: Workload) -> str:
    """A group for each task, a bar for each assignment; merged calls are split evenly."""
    sets: list[tuple[str, Sequence[Option]]] = [("today", plan.today)]
    for label, chosen in (("cheapest", plan.cheapest), ("smallest", plan.smallest)):
        sets.append((label, () if chosen is None else chosen.options))
    groups = []
    for task in workload.tasks:
        group = []
        for index, (label, options) in enumerate(sets):
            option = next((option for option in options if task in option.tasks), None)
            if option is not None and option.nano_usd is not None:
                cost = option.nano_usd // len(option.tasks)
                words = f"{dollars(cost)} {label}, {option.tier}"
                group.append(Bar(cost / 1e9, words, _COLOURS[index]))
        groups.append((task, group))
    return bars("Cost of each task before and after", groups, "USD a day")


def _frontier(plan: WorkloadPlan, workload: Workload, task: str) -> Iterator[Dot]:
    volume = workload.tasks[task].volume_per_day
    for option in plan.options:
        score = option.quality[task].score if task in option.quality else None
        if score is None or option.nano_usd is None or option.has_prefix_cache:
            continue
        is_chosen = plan.cheapest is not None and option in plan.cheapest.options
        css = "third" if is_chosen else "bad" if option.why_not else "first"
        x = option.nano_usd / len(option.tasks) / 1e9 * 1000 / volume
        yield Dot(x, score.mean, score.low, score.high, _short_name(option, task), css)


def _short_name(option: Option, task: str) -> str:
    parts = [option.tier]
    if option.call != task:
        parts.append(option.call)
    if option.is_batch:
        parts.append("batch")
    if any(move.kind == "max_tokens" for move in option.moves):
        parts.append(str(option.max_tokens))
    return ", ".join(parts)


def _latencies(plan: WorkloadPlan) -> list[tuple[str, list[Bar]]]:
    groups: dict[str, list[Bar]] = {}
    for option in plan.options:
        if any(move.kind != "tier" for move in option.moves):
            continue
        found = option.latency[option.tasks[0]]
        if found.e2e_s is not None:
            css = "bad" if found.verdict == "fails" else "first"
            label = f"{found.e2e_s:.2f} s {option.tier}"
            groups.setdefault(option.tasks[0], []).append(Bar(found.e2e_s, label, css))
    return list(groups.items())


def _figure(heading: str, svg: str, caption: str) -> str:
    return (
        f"<figure><h3>{escape(heading)}</h3>{svg}<figcaption>{escape(caption)}</figcaption>"
        "</figure>\n"
    )


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in sentences) + "</ul>"


def _table(headings: Row, rows: Iterable[Row]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )
