"""WorkloadPlan: what a scenario costs today, what may change, and what that saves.

In: a profile and prices. Out: the bound of each move, the cheapest assignment that holds every
floor and objective, the smallest set of moves that reaches the target, or the sentence that none
does. The same profile with other prices gives another plan without asking a model again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from fractions import Fraction

from headrace.core.frozen import frozen
from headrace.core.usage import Usage
from headrace.economics.prices import PriceBook
from headrace.planner.bounds import Bound, TaskTokens, bounds
from headrace.planner.optimizer import Assignment, cheapest, fewest_moves
from headrace.planner.options import Move, Option, OptionMaker
from headrace.planner.profile import Profile
from headrace.planner.tier_price import TierPrice, price_tier
from headrace.planner.workload import Scenario, Workload


@frozen
class MoveEffect:
    """A move alone, from today. Units: nano-dollars a day; None where it is not known.

    `most` is its bound as a share of the bill: what it could save if it did everything it can.
    `saving` is what it saves here. `option` has quality, latency and what speaks against it.
    """

    move: Move
    most: Fraction | None
    saving: Fraction | None
    option: Option


@frozen(kw_only=True)
class WorkloadPlan:
    """The answer to a scenario.

    `bounds` are empty where the tokens of a task are not known; `declared` are those by the sizes
    that the workload declares for every task, else empty.
    `cheapest` holds every floor; `smallest` reaches the target with the fewest moves. None: no set
    of options does. `unbound` is the cheapest if quality did not count, to show what floors cost.
    """

    scenario: Scenario
    day: date
    prices: Mapping[str, TierPrice | None]
    today: tuple[Option, ...]
    today_nano_usd: int | None
    bounds: tuple[Bound, ...]
    declared: tuple[Bound, ...]
    effects: tuple[MoveEffect, ...]
    options: tuple[Option, ...]
    target: float | None
    cheapest: Assignment | None
    smallest: Assignment | None
    unbound: Assignment | None
    unbound_smallest: Assignment | None

    def saving(self, assignment: Assignment) -> Fraction | None:
        """The share of today's bill that an assignment saves."""
        if not self.today_nano_usd:
            return None
        return 1 - Fraction(assignment.nano_usd, self.today_nano_usd)

    @property
    def broken_today(self) -> tuple[str, ...]:
        """What speaks against how it runs today."""
        return tuple(reason for option in self.today for reason in option.why_not)


def make_plan(profile: Profile, scenario: Scenario, book: PriceBook, day: date) -> WorkloadPlan:
    """Plan a scenario."""
    workload = profile.workload
    prices = {name: price_tier(workload.tiers[name], profile, book, day) for name in scenario.tiers}
    maker = OptionMaker(profile, scenario, prices)
    options, names = maker.make(), tuple(workload.tasks)
    today = tuple(maker.baseline(task) for task in workload.tasks.values())
    costs = [option.nano_usd for option in today]
    total = None if None in costs else sum(cost for cost in costs if cost is not None)
    allowed = [option for option in options if not option.why_not]
    most = _most(total, workload.target_saving)
    return WorkloadPlan(
        scenario=scenario,
        day=day,
        prices=prices,
        today=today,
        today_nano_usd=total,
        bounds=tuple(bounds(_tokens(workload, today))),
        declared=tuple(bounds(_declared(workload, prices[scenario.baseline]))),
        effects=tuple(_effects(options, today, total)),
        options=tuple(options),
        target=workload.target_saving,
        cheapest=cheapest(allowed, names),
        smallest=None if most is None else fewest_moves(allowed, names, most),
        unbound=cheapest(options, names),
        unbound_smallest=None if most is None else fewest_moves(options, names, most),
    )


def _most(total: int | None, target: float | None) -> int | None:
    """What the target leaves to spend."""
    if total is None or target is None:
        return None
    return int(total * (1 - Fraction(str(target))))


def _tokens(workload: Workload, today: Sequence[Option]) -> dict[str, TaskTokens]:
    """By those of today's calls; none unless every task has some."""
    found = {}
    for option in today:
        if option.input_tokens is None or option.output_tokens is None:
            return {}
        volume = workload.tasks[option.call].volume_per_day
        found[option.call] = TaskTokens(
            Fraction(option.input_tokens) * volume,
            Fraction(option.output_tokens) * volume,
            option.nano_usd,
        )
    return found


def _declared(workload: Workload, price: TierPrice | None) -> dict[str, TaskTokens]:
    """By declared sizes; none unless every task has some."""
    found = {}
    for task in workload.tasks.values():
        if task.tokens is None:
            return {}
        usage = Usage(input_tokens=task.tokens.input, output_tokens=task.tokens.output)
        volume = task.volume_per_day
        found[task.name] = TaskTokens(
            Fraction(usage.input_tokens * volume),
            Fraction(usage.output_tokens * volume),
            None if price is None else price.day_nano_usd([usage], volume),
        )
    return found


def _effects(
    options: Sequence[Option], today: Sequence[Option], total: int | None
) -> list[MoveEffect]:
    """Each single move, beside what it could save at most; a merged call is one on today's tier."""
    before = {option.call: option for option in today}
    baseline = today[0].tier
    effects = []
    for option in options:
        if len(option.moves) != 1 or (option.tier != baseline and option.moves[0].kind != "tier"):
            continue
        touched = [before[task] for task in option.tasks]
        costs = [old.nano_usd for old in touched if old.nano_usd is not None]
        saving = None
        if total and len(costs) == len(touched) and option.nano_usd is not None:
            saving = Fraction(sum(costs) - option.nano_usd, total)
        most = None if total is None else _most_saving(option.moves[0], touched, saving, total)
        effects.append(MoveEffect(option.moves[0], most, saving, option))
    return effects


def _most_saving(
    move: Move, touched: Sequence[Option], saving: Fraction | None, total: int
) -> Fraction | None:
    """The part of the bill that a move could take away, whatever quality it leaves.

    Another tier: all of it, were it free. A cached beginning: the input. A smaller max_tokens: the
    output. A merged call: the input of all calls but the dearest, more where its answers are
    shorter too. A batch: what its price says.
    """
    costs = [option.nano_usd for option in touched]
    inputs = [option.input_nano_usd for option in touched]
    if not total or None in costs or None in inputs or move.kind == "batch":
        return saving
    cost = sum(cost for cost in costs if cost is not None)
    paid = [part for part in inputs if part is not None]
    part = {
        "tier": cost,
        "prefix_cache": sum(paid),
        "max_tokens": cost - sum(paid),
        "merge": sum(paid) - max(paid),
    }
    most = Fraction(part[move.kind], total)
    return max(most, saving or most) if move.kind == "merge" else most
