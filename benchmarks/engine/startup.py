"""What a start costs: the help page, and one token of an answer, of the 0.5B model.

Every round starts each variant once, in turn, because shared machines drift by 2x within minutes.
Files are in the page cache: the first round warms it and does not count. `python` is an empty
interpreter, `import numpy` what no start can be under. Usage:

    make bench name=engine/startup                # prints, exits 1 above a ceiling
    make bench name=engine/startup args=--record  # also appends to benchmarks/results

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field

from floors import RESULTS, environment

from headrace.core.config import DEFAULT_MODEL

HELP_CEILING_S = 0.4
FIRST_TOKEN_CEILING_S = 1.0
COMMAND = (sys.executable, "-m", "headrace")
# An installed program has its bytecode beside it.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


@dataclass
class Times:
    """Of one variant, a value per round. Units: seconds; `processor_s` is user and system time."""

    first_byte_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)


def variants(model: str) -> dict[str, tuple[str, ...]]:
    answer = ("run", "--quiet", "--no-pull", "--model", model, "--max-tokens", "1")
    return {
        "python": (sys.executable, "-c", "print(1)"),
        "import numpy": (sys.executable, "-c", "import numpy; print(1)"),
        "headrace --help": (*COMMAND, "--help"),
        "headrace run --help": (*COMMAND, "run", "--help"),
        "headrace run": (*COMMAND, *answer, "hi"),
    }


def start(command: tuple[str, ...], times: Times | None) -> None:
    """Run a command to its end; the first byte of an answer is its first token."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin_s = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        first_byte_s = time.perf_counter() - begin_s
        process.stdout.read()
    wall_s = time.perf_counter() - begin_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode or not first:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    if times is not None:
        times.first_byte_s.append(first_byte_s)
        times.wall_s.append(wall_s)
        times.processor_s.append(
            after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        )


def summary(times: Times) -> dict[str, dict[str, float]]:
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in vars(times).items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    commands = variants(arguments.model)
    found = {name: Times() for name in commands}
    for number in range(arguments.rounds + 1):
        for name, command in commands.items():
            start(command, found[name] if number else None)
    results = {name: summary(times) for name, times in found.items()}
    print(f"{'median (min to max), ms':<24} {'first byte':>20} {'end':>20} {'processor':>20}")
    for name, result in results.items():
        cells = [
            f"{1e3 * value['median']:.0f} ({1e3 * value['min']:.0f} to {1e3 * value['max']:.0f})"
            for value in result.values()
        ]
        print(f"{name:<24} " + " ".join(f"{cell:>20}" for cell in cells))
    record = {
        "benchmark": "engine/startup",
        **environment(),
        "model": arguments.model,
        "rounds": arguments.rounds,
        "results": results,
    }
    if arguments.record:
        with (RESULTS / f"{record['date']}-startup.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    is_slow = (
        results["headrace --help"]["wall_s"]["median"] > HELP_CEILING_S
        or results["headrace run"]["first_byte_s"]["median"] > FIRST_TOKEN_CEILING_S
    )
    sys.exit(is_slow)


if __name__ == "__main__":
    main()
