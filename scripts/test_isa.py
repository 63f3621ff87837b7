"""Run the kernel cases on every ISA tier of this machine, and print which ran and which could not.

Each tier runs the cases of tests/kernels on its own kernels; a tier that this CPU or system lacks
is named with its reason. Exits 1 when a case fails, or when a tier that runs here had no case.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from headrace.ops.cpu.isa import all_isas

CASES = Path(__file__).parent.parent / "tests" / "kernels"


class Tally:
    """A pytest plugin that counts outcomes by tier: the parameter of a test that names one."""

    def __init__(self) -> None:
        self.names = [status.name for status in all_isas()]
        self.tier_of: dict[str, str] = {}
        self.counts: dict[str, Counter[str]] = {name: Counter() for name in self.names}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note each test's tier."""
        for item in items:
            values = getattr(item, "callspec", None)
            for value in values.params.values() if values else ():
                if isinstance(value, str) and value in self.names:
                    self.tier_of[item.nodeid] = value

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or where it ended before."""
        if report.nodeid in self.tier_of and (report.when == "call" or not report.passed):
            self.counts[self.tier_of[report.nodeid]][report.outcome] += 1


def main() -> None:
    tally = Tally()
    code = int(pytest.main([str(CASES), *sys.argv[1:]], plugins=[tally]))
    print(f"{'tier':<10} {'passed':>7} {'failed':>7} {'skipped':>8}")
    for status in all_isas():
        counts = tally.counts[status.name]
        numbers = f"{counts['passed']:>7} {counts['failed']:>7} {counts['skipped']:>8}"
        note = "" if status.is_available else f"  cannot run here: {status.reason}"
        if status.is_available and not counts["passed"]:
            note, code = "  runs here, but no case ran", code or 1
        print(f"{status.name:<10} {numbers}{note}")
    sys.exit(code)


if __name__ == "__main__":
    main()
