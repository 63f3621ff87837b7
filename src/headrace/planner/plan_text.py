"""A plan in words and rows: what the terminal and the HTML page both show.

In: a WorkloadPlan and its profile. Out: sentences, and tables of texts. Every number is computed
elsewhere; here it is only written. Knows no terminal and no HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

from headrace.core.units import format_number, format_seconds
from headrace.economics.prices import format_usd
from headrace.planner.agreement import Agreement
from headrace.planner.bounds import Bound
from headrace.planner.interval import Interval
from headrace.planner.judge import TIE
from headrace.planner.optimizer import Assignment
from headrace.planner.options import Option, TaskLatency, TaskQuality, Verdict
from headrace.planner.plan import MoveEffect, WorkloadPlan
from headrace.planner.profile import Measured, Profile
from headrace.planner.workload import Floor, Task, Tier, Workload

Row = tuple[str, ...]

BOUND_HEADINGS = ("task", "calls a day", "tokens a call", "USD a day", "share", "at any price")
QUALITY_HEADINGS = ("task", "call", "tier", "samples", "score", "to baseline", "floor", "held",
                    "p latency", "cut", "failed", "USD per 1000")  # fmt: skip
MOVE_HEADINGS = ("move", "at most", "saves here", "risk")
AGREEMENT_HEADINGS = ("task", "judge", "compares", "pairs", "same in both orders",
                      "prefers the second", "told apart", "as the metric")  # fmt: skip
FEW_SAMPLES = 30
_HELD: dict[Verdict, str] = {
    "holds": "yes",
    "unproved": "not shown",
    "fails": "no",
    "unmeasured": "not measured",
    "none": "-",
}


def bound_rows(plan: WorkloadPlan, workload: Workload) -> Iterator[Row]:
    """What each task costs today, which is what moving it away saves at most."""
    known = {bound.task: bound for bound in plan.bounds}
    for option in plan.today:
        tokens, bound = (option.input_tokens, option.output_tokens), known.get(option.call)
        yield (
            option.call,
            f"{workload.tasks[option.call].volume_per_day:,}",
            " + ".join("?" if count is None else f"{count:.0f}" for count in tokens),
            dollars(option.nano_usd),
            percent(bound.at_price if bound else None),
            f"{percent(bound.low)} to {percent(bound.high)}" if bound else "?",
        )


def quality_rows(plan: WorkloadPlan, workload: Workload) -> Iterator[Row]:
    """How every call did on every tier, without moves that change no answer."""
    for option in plan.options:
        if option.is_batch or option.has_prefix_cache:
            continue
        for name in option.tasks:
            task = workload.tasks[name]
            quality = option.quality[name]
            shown = option.call if option.max_tokens == workload.call(option.call).max_tokens else (
                f"{option.call}, {option.max_tokens} tokens")  # fmt: skip
            yield (
                name,
                shown,
                option.tier,
                samples_text(option),
                interval_text(quality.score),
                interval_text(quality.difference, True) if option.moves else "baseline",
                floor_text(task.floor),
                _HELD[quality.verdict],
                latency_text(task, option.latency[name]),
                str(option.num_cut),
                str(option.num_failed),
                per_thousand(option, task),
            )


def move_rows(plan: WorkloadPlan) -> Iterator[Row]:
    """Each move alone."""
    for effect in sorted(plan.effects, key=lambda effect: effect.most or Fraction(0), reverse=True):
        yield (str(effect.move), percent(effect.most), percent(effect.saving), risk(effect))


def agreement_rows(found: Iterable[Agreement]) -> Iterator[Row]:
    """Judges beside the metrics that decide."""
    for each in found:
        yield (
            each.task,
            each.judge,
            f"{each.baseline}, {each.other}",
            str(each.steady.count),
            interval_text(each.steady),
            interval_text(each.preference),
            str(each.num_told_apart),
            interval_text(each.agrees),
        )


def agreement_sentences(found: Iterable[Agreement]) -> Iterator[str]:
    """What that says of a judge."""
    for each in found:
        kept = (
            f"{each.judge}, asked which answers to {each.task} are better, kept its verdict in "
            f"{each.steady.mean:.0%} of {each.steady.count} pairs when their order was changed"
        )
        if each.agrees is None:
            yield f"{kept}; no pair is left that it and the metric both tell apart."
            continue
        sense = (
            "better than a coin" if each.agrees.low > 0.5 else "not shown to be better than a coin"
        )
        yield (
            f"{kept}; of {each.num_told_apart} that it and the metric tell apart it prefers the "
            f"same one in {each.agrees.mean:.0%} [{each.agrees.low:.0%}, {each.agrees.high:.0%}]: "
            f"{sense}. No floor rests on it."
        )


def risk(effect: MoveEffect) -> str:
    """What a move may harm, as it was measured."""
    option = effect.option
    if option.why_not:
        return "; ".join(option.why_not)
    kind = effect.move.kind
    if kind == "batch":
        rests = (
            "; rests on off_peak_utilization, which is assumed"
            if "off-peak" in effect.move.to
            else ""
        )
        return f"answers within a day, not at once; the same model{rests}"
    if kind == "prefix_cache":
        return "the same answers; costs more where calls are rarer than the cache's life"
    worst = min((found.difference.low for found in option.quality.values() if found.difference),
                default=None)  # fmt: skip
    return "no floor is set" if worst is None else f"at worst {worst:+.3f} against the baseline"


def conclusions(plan: WorkloadPlan, workload: Workload) -> Iterator[str]:
    """What follows, in sentences."""
    if plan.today_nano_usd is None:
        yield (
            "What it costs today is not known, nor what could be saved of it: "
            + "; ".join(sorted(set(plan.broken_today)))
            + "."
        )
        return
    yield (
        f"Today, all on {plan.scenario.baseline}: {dollars(plan.today_nano_usd)} USD a day, at "
        f"prices of {plan.day}."
    )
    yield from _single_moves(plan)
    yield from _broken(plan)
    if plan.cheapest is None:
        yield _no_set(plan)
    else:
        chosen = assignment_text(plan, plan.cheapest)
        yield f"The cheapest that holds every floor and objective: {chosen}."
    if plan.target is not None:
        yield from _target(plan)
    counts = [option.num_prompts for option in plan.options if option.num_prompts]
    if counts and min(counts) < FEW_SAMPLES:
        yield (
            f"Some of it rests on {min(counts)} samples that differ. Below {FEW_SAMPLES} intervals "
            "are too narrow: take what is held as likely, not as shown, and profile more samples."
        )


def _single_moves(plan: WorkloadPlan) -> Iterator[str]:
    """The bounds of moving a task, by what was measured and by what was declared."""
    is_measured = any(option.num_samples for option in plan.today)
    if plan.declared:
        yield from map(_declared_sentence, plan.declared)
    if is_measured or not plan.declared:
        how = "By the tokens that were measured" if is_measured else "Here"
        for bound in plan.bounds:
            yield (
                f"{how}, moving {bound.task} alone saves at most {percent(bound.at_price)}, and "
                f"from {percent(bound.low)} to {percent(bound.high)} under any linear price."
            )


def _declared_sentence(bound: Bound) -> str:
    return (
        f"By the sizes that the workload declares, moving {bound.task} alone saves at most "
        f"{percent(bound.low)} to {percent(bound.high)} under any linear price"
        + ("" if bound.at_price is None else f" and {percent(bound.at_price)} at this one")
        + ", even if the other tier were free."
    )


def _broken(plan: WorkloadPlan) -> Iterator[str]:
    if plan.broken_today:
        reasons = "; ".join(dict.fromkeys(plan.broken_today))
        yield f"As it runs today it does not hold what is asked of it: {reasons}."


def _no_set(plan: WorkloadPlan) -> str:
    held = {task for option in plan.options if not option.why_not for task in option.tasks}
    lost = [task for option in plan.today for task in option.tasks if task not in held]
    why = f" No option holds for {', '.join(lost)}." if lost else ""
    return f"No set of moves holds every floor and objective with these tiers.{why}"


def _target(plan: WorkloadPlan) -> Iterator[str]:
    goal = f"{plan.target:.0%}"
    if plan.smallest is not None:
        yield (
            f"The smallest set of moves that saves {goal} with every floor held: "
            f"{assignment_text(plan, plan.smallest)}."
        )
        return
    best = "" if plan.cheapest is None else (
        f" The most that holds every floor {saving_text(plan, plan.cheapest)}.")  # fmt: skip
    yield f"No set of moves saves {goal} with every floor held.{best}"
    if plan.unbound_smallest is not None:
        breaks = dict.fromkeys(
            reason for option in plan.unbound_smallest.options for reason in option.why_not
        )
        yield (
            f"Without floors the smallest set for {goal} would be "
            f"{assignment_text(plan, plan.unbound_smallest)}; against it: {'; '.join(breaks)}."
        )
        return
    unknown = [option for option in plan.options if not option.num_samples]
    if unknown:
        yield (
            f"Whether one does without floors is not known: {len(unknown)} of {len(plan.options)} "
            "options are not measured. The same `headrace profile` goes on where it stopped."
        )
        return
    yield f"Nor does any without floors: {goal} is out of reach at these prices."


def assignment_text(plan: WorkloadPlan, assignment: Assignment) -> str:
    """The moves of an assignment and what they save."""
    moves = [str(move) for option in assignment.options for move in option.moves]
    words = "; ".join(moves) if moves else "nothing changes"
    return f"{words} ({dollars(assignment.nano_usd)} USD a day, {saving_text(plan, assignment)})"


def saving_text(plan: WorkloadPlan, assignment: Assignment) -> str:
    """What it saves; what holds every floor may cost more than today."""
    saving = plan.saving(assignment)
    if saving is not None and saving < 0:
        return f"costs {percent(-saving)} more than today"
    return f"saves {percent(saving)}"


def assumptions(plan: WorkloadPlan, profile: Profile) -> Iterator[str]:
    """All that the numbers rest on."""
    workload = profile.workload
    for name in plan.scenario.tiers:
        yield _tier_text(workload.tiers[name], plan, profile)
    how = "the lower end of its interval" if workload.evidence == "bound" else "its mean"
    yield (
        f"A floor is held when {how} is at least the floor; intervals hold "
        f"{workload.confidence:.1%} (bootstrap over samples)."
    )
    counts = sorted({found.concurrency for found in _measured(profile, workload.tiers.values())})
    if counts:
        together = f"{' or '.join(map(str, counts))} at a time"
        yield f"Calls were measured with a cold prefix cache and temperature 0, {together}."
    yield from _doubts(profile)
    if workload.note:
        yield workload.note


def _doubts(profile: Profile) -> Iterator[str]:
    """What makes tokens or scores less sure than they look."""
    for tier in profile.workload.tiers.values():
        usages = [usage for found in _measured(profile, [tier]) for usage in found.usages]
        num_estimated = sum(usage.is_estimated for usage in usages)
        if num_estimated:
            yield (
                f"{tier.name} did not count the tokens of {num_estimated} of {len(usages)} "
                "answers: they are estimated by their lengths, and so is what they cost."
            )
        num_cached = sum(usage.cached_input_tokens for usage in usages)
        if num_cached:
            share = num_cached / sum(usage.input_tokens for usage in usages)
            yield (
                f"{share:.0%} of the prompt tokens of {tier.name} came from its provider's cache "
                "while it was measured, and are priced so: calls that come less often pay more."
            )
    for call in profile.workload.calls:
        if call.repeats:
            yield (
                f"{len(call.repeats)} of the {len(call.samples)} samples of {call.name} have the "
                "prompt of another. Each has times of its own; in intervals of quality those that "
                "are alike are one sample, which weighs more."
            )
    for task in profile.workload.tasks.values():
        found = _measured(profile, profile.workload.tiers.values())
        verdicts = [
            verdict for each in found if task.name in each.rows for verdict in each.rows[task.name]
        ]
        if task.metric.kind == "judge" and verdicts:
            num_ties = sum(float(verdict[0]) == TIE for verdict in verdicts)
            yield (
                f"{task.name} is scored by a judge, {task.metric.model}, which contradicted itself "
                f"in {num_ties} of {len(verdicts)} answers when the order was changed; they count "
                "half. A judge that cannot tell answers apart makes tiers look equal."
            )


def _measured(profile: Profile, tiers: Iterable[Tier]) -> list[Measured]:
    """What was asked for real, on each of these tiers."""
    real = [tier for tier in tiers if tier.stands_in is None]
    found = (profile.find(call, tier) for call in profile.workload.calls for tier in real)
    return [measured for measured in found if measured is not None]


def _why_unpriced(tier: Tier, profile: Profile) -> str:
    if tier.usd_per_hour is None:
        return "no price"
    if not _measured(profile, [tier]):
        return "not measured, so no price"
    return (
        "no price: what was measured gives no speed of output, as answers of one token do not; "
        "profile a task with longer answers on it too"
    )


def _tier_text(tier: Tier, plan: WorkloadPlan, profile: Profile) -> str:
    found, parts = plan.prices[tier.name], []
    if tier.stands_in is not None:
        parts.append(
            f"what if: tokens, times and quality are those measured on {tier.stands_in}, which "
            f"says nothing about {tier.model}; the price alone is its own"
        )
    elif tier.url is None:
        facts = profile.journal.facts(tier)
        parts.append(f"{tier.model} on this engine" + "".join(
            f", {key} {value}" for key, value in facts.items()))  # fmt: skip
    else:
        parts.append(f"{tier.model} at {tier.url}")
    if found is None:
        parts.append(_why_unpriced(tier, profile))
        return f"{tier.name}: {'; '.join(parts)}."
    machine, rates = found.price.machine, found.price.standard.rates
    if machine is not None:
        parts.append(
            f"own machine at {format_usd(machine.nano_usd_per_hour)} USD an hour (assumed), "
            f"{machine.input_tokens_per_s:.0f} input and {machine.output_tokens_per_s:.1f} output "
            f"tokens/s measured, at work {machine.utilization:.0%} of the time (assumed)"
        )
    state = found.price.state(plan.day, found.stale_after_days)
    checked = f", last checked {found.price.checked}" if found.price.checked else ""
    parts.append(
        f"{_rate(rates.input)} USD in, {_rate(rates.output)} USD out per million tokens "
        f"({found.price.id}, {state}{checked})"
    )
    return f"{tier.name}: {'; '.join(parts)}."


def _rate(nano_usd: int | None) -> str:
    return "?" if nano_usd is None else format_number(nano_usd / 1e9, 4)


def samples_text(option: Option) -> str:
    """How many were asked, and how many of them differ."""
    if option.num_prompts == option.num_samples:
        return str(option.num_samples or option.num_failed)
    return f"{option.num_samples}, {option.num_prompts} differ"


def percent(share: Fraction | None) -> str:
    """A share with a digit after the point."""
    return "?" if share is None else f"{float(share):.1%}"


def dollars(nano_usd: int | None) -> str:
    """Two digits, or as many as it takes to see something."""
    if nano_usd is None:
        return "unpriced"
    usd = nano_usd / 1e9
    return f"{usd:,.2f}" if usd >= 1 or not usd else format_number(usd)


def interval_text(found: Interval | None, is_signed: bool = False) -> str:
    """A mean and its interval."""
    if found is None:
        return "-"
    form = "+.3f" if is_signed else ".3f"
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def floor_text(floor: Floor) -> str:
    """What must hold."""
    parts = []
    if floor.least is not None:
        parts.append(f"at least {floor.least:g}")
    if floor.within is not None:
        parts.append(f"within {floor.within:g} of the baseline")
    return ", ".join(parts) or "-"


def latency_text(task: Task, found: TaskLatency) -> str:
    """End to end at the objective's percent, beside the limit."""
    at = 95.0 if task.latency is None else task.latency.percent
    if found.e2e_s is None or found.ttft_s is None:
        return "-"
    text = f"p{at:g} {format_seconds(found.ttft_s)} first, {format_seconds(found.e2e_s)} all"
    return text if found.verdict in ("holds", "none") else f"{text} (too slow)"


def per_thousand(option: Option, task: Task) -> str:
    """What a thousand such calls cost."""
    if option.nano_usd is None:
        return "unpriced"
    return dollars(option.nano_usd * 1000 // task.volume_per_day)


def quality_text(found: TaskQuality) -> str:
    """The score of a chosen option and whether its floor is held."""
    return f"{interval_text(found.score)} ({_HELD[found.verdict]})"
