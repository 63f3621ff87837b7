"""Break-even of machines and APIs, beside a table that was worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from fakes.workload_files import answer_to, write_workload
from headrace.economics.machine_price import MachineWork
from headrace.economics.price_yaml import read_price_yaml
from headrace.economics.prices import Price
from headrace.planner.advisor import Mix, compare, measured_machine, read_catalogue
from headrace.planner.journal import Journal
from headrace.planner.profile import Profile
from headrace.planner.workload_file import read_workload

MIX = Mix(Fraction(9_000_000), Fraction(2_000_000))


def api(input_: str, output: str) -> Price:
    entry = {
        "provider": "p",
        "model": "m",
        "input_per_1m": Decimal(input_),
        "output_per_1m": Decimal(output),
    }
    return read_price_yaml({"prices": [entry]}, "p").prices[0]


@pytest.mark.parametrize(
    ("machine", "price", "millions"),
    [
        ("gpu-l4", ("3", "15"), 3.2),
        ("gpu-l4", ("1", "5"), 9.7),
        ("gpu-l4", ("0.2", "1.2"), 44),
        ("gpu-h100", ("3", "15"), 11.6),
        ("gpu-h100", ("0.15", "0.6"), 259),
        ("edge-4vcpu", ("3", "15"), 0.7),
        ("edge-4vcpu", ("0.2", "1.2"), 9.4),
    ],
)
def test_break_even_volumes(machine: str, price: tuple[str, str], millions: float) -> None:
    """Millions of tokens a day at 9 input to 2 output tokens, above which a machine is cheaper."""
    chosen = [entry for entry in read_catalogue({}) if entry.name == machine]
    (found,) = compare(chosen, [api(*price)], MIX, 0.7)
    assert float(found.tokens_a_day) / 1e6 == pytest.approx(millions, rel=0.02)
    assert found.utilization is None and not found.never_pays
    assert found.tokens_per_s == pytest.approx(float(found.tokens_a_day) / 86400)


def test_utilization_decides_and_machines_come_whole() -> None:
    """100 input and 20 output tokens/s: a day of the mix is 190,000 s of work."""
    work = MachineWork(10, 1.0, 1.0, 100.0, 20.0, 1.0)
    edge = replace(read_catalogue({"edge-4vcpu": Decimal("0.1")})[0], work=work)
    (found,) = compare([edge], [api("3", "15")], MIX, 0.7)
    assert found.utilization == pytest.approx(190_000 / 86_400 * 2.4 / 57)
    assert not found.never_pays
    tenth, one, ten, _ = found.costs
    assert (tenth.num_machines, one.num_machines, ten.num_machines) == (1, 4, 32)
    assert one.machine_nano_usd == 4 * 2_400_000_000 and one.api_nano_usd == 57_000_000_000
    assert one.utilization == pytest.approx(190_000 / 86_400 / 4)
    (dear,) = compare([edge], [api("0.05", "0.2")], MIX, 0.7)
    assert dear.never_pays
    assert all(cost.machine_nano_usd > cost.api_nano_usd for cost in dear.costs)


@pytest.mark.parametrize(
    ("apart_s", "calls"),
    [(20.0, "1 call at a time"), (0.0, "16 calls at a time"), (8.0, "1.2 calls at a time")],
)
def test_a_measured_machine_says_how_many_calls_it_had(
    tmp_path: Path, apart_s: float, calls: str
) -> None:
    """Answers of ten seconds, each ending so much later than the one before."""
    workload = read_workload(write_workload(tmp_path))
    journal, tier = Journal(tmp_path / "p.jsonl"), workload.tiers["large"]
    end_s = 0.0
    for call in workload.calls:
        for sample in call.samples:
            end_s += apart_s
            answer = answer_to(call, tier, sample, "sport")
            journal.add(replace(answer, answered_unix_s=end_s, prefill_s=2.0, decode_s=8.0))
    priced = replace(tier, usd_per_hour=Decimal("0.15"))
    found = measured_machine(priced, Profile(workload, journal))
    assert found is not None and f", {calls}; rate assumed" in found.note


def test_rates_are_replaced_and_added() -> None:
    found = {m.name: m for m in read_catalogue({"gpu-l4": Decimal(1), "mine": Decimal("0.2")})}
    assert found["gpu-l4"].nano_usd_per_hour == 10**9
    assert found["mine"].day_nano_usd == 4_800_000_000
    assert "assumed" in found["gpu-h100"].note and "given" in found["gpu-l4"].note
