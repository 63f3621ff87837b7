"""Break-even of machines and APIs, beside a table that was worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest

from headrace.economics.machine_price import MachineWork
from headrace.economics.price_yaml import read_price_yaml
from headrace.economics.prices import Price
from headrace.planner.advisor import Mix, compare, read_catalogue

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


def test_rates_are_replaced_and_added() -> None:
    found = {m.name: m for m in read_catalogue({"gpu-l4": Decimal(1), "mine": Decimal("0.2")})}
    assert found["gpu-l4"].nano_usd_per_hour == 10**9
    assert found["mine"].day_nano_usd == 4_800_000_000
    assert "assumed" in found["gpu-h100"].note and "given" in found["gpu-l4"].note
