"""Advisor: an API or a machine of one's own, from which volume on, and at which utilization.

In: a day's tokens, prices of APIs, machines with their hourly rate and, of those that were
measured, their speed. Out: for each pair the break-even and both costs at several volumes. Whole
machines make cost a staircase; how busy they are decides. Every rate is an assumption that can be
replaced.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from headrace.core.frozen import frozen
from headrace.core.usage import Usage
from headrace.economics.cost import charge
from headrace.economics.machine_price import MachineWork
from headrace.economics.prices import Price, to_nano_usd
from headrace.planner.profile import Profile
from headrace.planner.workload import DAY_S, Tier

CATALOGUE = Path(__file__).with_name("machines.json")
VOLUMES = (Fraction(1, 10), Fraction(1), Fraction(10), Fraction(100))


@frozen
class Mix:
    """A day of a workload. Units: tokens."""

    input: Fraction
    output: Fraction

    @property
    def total(self) -> Fraction:
        return self.input + self.output


@frozen
class Machine:
    """Always on. `work` is what it was measured to do with this workload; None: it was not."""

    name: str
    kind: str
    nano_usd_per_hour: int
    note: str
    work: MachineWork | None = None

    @property
    def day_nano_usd(self) -> int:
        return 24 * self.nano_usd_per_hour

    def busy_s(self, mix: Mix) -> float | None:
        """The work of a day at the measured speed."""
        if self.work is None:
            return None
        return (
            float(mix.input) / self.work.input_tokens_per_s
            + float(mix.output) / self.work.output_tokens_per_s
        )


@frozen
class CostAt:
    """Both costs of a day at a multiple of the workload. Units: nano-dollars.

    `num_machines` is None where the machine was not measured: then one is taken to be enough.
    """

    volume: Fraction
    api_nano_usd: int
    machine_nano_usd: int
    num_machines: int | None
    utilization: float | None


@frozen
class BreakEven:
    """A machine beside an API.

    `tokens_a_day` is where one machine costs as much as the API, `tokens_per_s` what it must do on
    average for that; `utilization` how busy it is then. Above `most_utilization` it never pays: the
    next machine is due before.
    """

    machine: Machine
    api: Price
    tokens_a_day: Fraction
    tokens_per_s: float
    utilization: float | None
    most_utilization: float
    costs: tuple[CostAt, ...]

    @property
    def never_pays(self) -> bool:
        return self.utilization is not None and self.utilization > self.most_utilization


def read_catalogue(replaced: Mapping[str, Decimal]) -> tuple[Machine, ...]:
    """The machines that come with headrace, with other rates where some are given."""
    tree = json.loads(CATALOGUE.read_text(encoding="utf-8"))
    found = {
        entry["name"]: Machine(
            entry["name"],
            entry["kind"],
            to_nano_usd(replaced.get(entry["name"], Decimal(entry["usd_per_hour"]))),
            f"{entry['what']}; "
            + ("rate given" if entry["name"] in replaced else f"assumed {tree['about']['as_of']}"),
        )
        for entry in tree["machines"]
    }
    for name, usd in replaced.items():
        found.setdefault(name, Machine(name, "own", to_nano_usd(usd), "rate given"))
    return tuple(found.values())


def measured_machine(tier: Tier, profile: Profile) -> Machine | None:
    """This machine, as a tier's price per hour and what the profile measured; None without both."""
    work = profile.work(tier)
    if work is None or tier.usd_per_hour is None:
        return None
    calls = f"{work.concurrency:.1f}".removesuffix(".0")
    calls += " call at a time" if calls == "1" else " calls at a time"
    note = f"measured with {tier.model}, {calls}; rate assumed"
    return Machine(f"here ({tier.name})", "cpu", to_nano_usd(tier.usd_per_hour), note, work)


def day_mix(profile: Profile, tier: Tier | None) -> Mix | None:
    """A day's tokens: measured on the tier, else declared; None where neither is known."""
    input_, output = Fraction(0), Fraction(0)
    for task in profile.workload.tasks.values():
        measured = None if tier is None else profile.find(task.call, tier)
        if measured is not None:
            mean_input, mean_output = measured.mean_input, measured.mean_output
        elif task.tokens is not None:
            mean_input, mean_output = task.tokens.input, task.tokens.output
        else:
            return None
        input_ += Fraction(mean_input) * task.volume_per_day
        output += Fraction(mean_output) * task.volume_per_day
    return Mix(input_, output)


def compare(
    machines: Sequence[Machine], apis: Sequence[Price], mix: Mix, most_utilization: float
) -> Iterator[BreakEven]:
    """Every machine beside every API."""
    pairs = ((machine, api) for machine in machines for api in apis)
    found = (_compare(*pair, mix, most_utilization) for pair in pairs)
    return (each for each in found if each is not None)


def _compare(machine: Machine, api: Price, mix: Mix, most_utilization: float) -> BreakEven | None:
    usage = Usage(input_tokens=round(mix.input), output_tokens=round(mix.output))
    # Prices of long prompts are those of one call, which a day's tokens are not.
    api_nano_usd = charge(usage, api.standard.rates.resolved())
    if not api_nano_usd:
        return None
    scale = Fraction(machine.day_nano_usd, api_nano_usd)
    busy_s = machine.busy_s(mix)
    return BreakEven(
        machine=machine,
        api=api,
        tokens_a_day=mix.total * scale,
        tokens_per_s=float(mix.total * scale) / DAY_S,
        utilization=None if busy_s is None else busy_s * float(scale) / DAY_S,
        most_utilization=most_utilization,
        costs=tuple(
            _cost_at(volume, api_nano_usd, machine, busy_s, most_utilization) for volume in VOLUMES
        ),
    )


def _cost_at(
    volume: Fraction,
    api_nano_usd: int,
    machine: Machine,
    busy_s: float | None,
    most_utilization: float,
) -> CostAt:
    count = utilization = None
    if busy_s is not None:
        needed = busy_s * float(volume) / DAY_S
        count = max(1, math.ceil(needed / most_utilization))
        utilization = needed / count
    return CostAt(
        volume,
        round(api_nano_usd * volume),
        machine.day_nano_usd * (count or 1),
        count,
        utilization,
    )
