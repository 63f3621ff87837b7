"""What a whole measurement found: pairs, who failed and why, and the record made of them.

In: pairs, facts of the runners. Out: a Standing per cell, and one JSON object. Medians are over
rounds, spreads are lowest to highest, shares of the machine's peaks are taken inside each pair.
"""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from cells import CELLS, MODELS, Cell
from engines import OURS
from pairs import Pair


@dataclass(frozen=True, slots=True)
class Standing:
    """One engine beside headrace in one cell; `ours` and `theirs` are medians."""

    cell: str
    engine: str
    rounds: int
    ours: float
    theirs: float
    ratio: float
    lowest: float
    highest: float
    share: float | None

    @property
    def peak(self) -> str:
        """What `share` is a share of."""
        return "read bandwidth" if self.cell.startswith("decode") else "int8 peak"


@dataclass
class Findings:
    """Filled while the rounds run. `facts` and `failures` are by model, then by engine."""

    settings: Mapping[str, Any]
    pairs: list[Pair] = field(default_factory=list)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)

    def standings(self, cell: Cell) -> list[Standing]:
        """Every engine of a cell, the best first."""
        pairs = [pair for pair in self.pairs if pair.cell == cell.name]
        names = sorted({pair.engine for pair in pairs})
        found = [
            self._standing(cell, name, [pair for pair in pairs if pair.engine == name])
            for name in names
        ]
        return sorted(found, key=lambda standing: standing.ratio)

    def best(self, cell: Cell) -> Standing | None:
        """The best peer: of the engines that were measured in every round."""
        standings = self.standings(cell)
        rounds = max((standing.rounds for standing in standings), default=0)
        return next((each for each in standings if each.rounds == rounds), None)

    def as_json(self) -> dict[str, Any]:
        """The record, as one line of benchmarks/results."""
        cells = []
        for cell in CELLS:
            best = self.best(cell)
            if best is not None:
                standings = [asdict(each) for each in self.standings(cell)]
                cells.append(
                    {
                        **asdict(cell),
                        "name": cell.name,
                        "title": cell.title,
                        "model_name": MODELS[cell.model],
                        "best": best.engine,
                        "standings": standings,
                    }
                )
        return {
            "benchmark": "peers/bench_peers",
            **environment(),
            "settings": dict(self.settings),
            "engines": self.facts,
            "failures": self.failures,
            "cells": cells,
            "pairs": [asdict(pair) for pair in self.pairs],
        }

    def _standing(self, cell: Cell, name: str, pairs: list[Pair]) -> Standing:
        ratios = [pair.ratio for pair in pairs]
        shares = [share for pair in pairs if (share := self._share(cell, pair)) is not None]
        return Standing(
            cell=cell.name,
            engine=name,
            rounds=len(pairs),
            ours=statistics.median(pair.ours for pair in pairs),
            theirs=statistics.median(pair.theirs for pair in pairs),
            ratio=statistics.median(ratios),
            lowest=min(ratios),
            highest=max(ratios),
            share=statistics.median(shares) if shares else None,
        )

    def _share(self, cell: Cell, pair: Pair) -> float | None:
        """headrace's part of the peak that bounds the cell; a start has none."""
        work = self.facts[cell.model][OURS]["work"]
        if cell.measure == "start":
            return None
        if cell.measure == "decode":
            return float(pair.ours * work["stream_bytes"] / pair.roof.read_bytes_per_s)
        rows = cell.num_requests * (cell.prompt_tokens + cell.output_tokens - 1)
        heads = cell.num_requests * cell.output_tokens
        operations = 2 * (rows * work["body_weights"] + heads * work["head_weights"])
        counted = cell.prompt_tokens if cell.measure == "prefill" else heads
        return float(operations * pair.ours / counted / pair.roof.int8_ops_per_s)


def environment() -> dict[str, str]:
    """Commit, processor and day, as every record has them."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
    return {"commit": commit.stdout.strip(), "cpu": cpu, "date": date.today().isoformat()}


def print_pair(pair: Pair) -> None:
    """One line while the rounds run."""
    print(
        f"round {pair.round + 1}  {pair.cell:<14} headrace {pair.ours:8.4g}  "
        f"{pair.engine:<20} {pair.theirs:8.4g}  ratio {pair.ratio:6.2f}  "
        f"| read {pair.roof.read_bytes_per_s / 1e9:4.1f} GB/s, "
        f"int8 {pair.roof.int8_ops_per_s / 1e12:5.2f} TOP/s",
        flush=True,
    )


def print_findings(found: Findings) -> None:
    """Every engine of every cell, and what did not run."""
    for cell in CELLS:
        best = found.best(cell)
        if best is None:
            continue
        print(f"\n{MODELS[cell.model]}: {cell.title}")
        for each in found.standings(cell):
            share = "" if each.share is None else f"  {each.share:.0%} of {each.peak}"
            mark = "  <- best peer" if each.engine == best.engine else ""
            print(
                f"  {each.engine:<20} {each.theirs:8.4g}  headrace {each.ours:8.4g}  "
                f"ratio {each.ratio:5.2f} ({each.lowest:.2f} to {each.highest:.2f}, "
                f"{each.rounds} rounds){share}{mark}"
            )
    for model, failures in found.failures.items():
        for engine, reason in failures.items():
            print(f"\n{engine} on {MODELS[model]} was not measured: {reason}")
