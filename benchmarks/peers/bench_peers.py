"""headrace beside every peer on this machine: same model files, same prompts, in alternation.

The first round, the heat, runs every engine of every peer beside headrace. The next rounds repeat
each cell with the two that can still be its best peer: within 1.5x of the best. Usage:

    make bench-peers                                  # installs, five rounds, prints
    make bench-peers args=--record                    # also appends to benchmarks/results
    make bench-peers args="--only vllm --cells decode-0.5b --rounds 1"

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cells import CELLS, MODELS, Cell
from engines import OURS, Engine, engines
from findings import Findings, print_findings, print_pair
from install import Installer
from pairs import Bench, Pair
from runner import Runner, RunnerFailed
from turn import CommandFailed, Turn

from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_config
from headrace.hub.model_store import ModelStore

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
CONTENDER = 1.5
"""Engines at most this many times slower than the best of the heat stay in a cell."""
MAX_CONTENDERS = 2
"""Of a cell, after the heat."""


class Contest:
    """All cells of one model."""

    def __init__(
        self, bench: Bench, installer: Installer, gguf: Path, cells: Sequence[Cell], found: Findings
    ) -> None:
        self._bench, self._installer, self._gguf = bench, installer, gguf
        self._cells, self._found = cells, found
        model = cells[0].model
        self._facts = found.facts.setdefault(model, {})
        self._failures = found.failures.setdefault(model, {})
        self._runners: dict[str, Runner] = {}
        self._engines: dict[str, Engine] = {}

    def hold(self, ours: Engine, peers: Sequence[Engine], rounds: int) -> None:
        """The heat and the rounds after it."""
        with ExitStack() as stack:
            stack.callback(self._close_all)
            self._engines[OURS] = ours
            self._runners[OURS], _ = self._bench.open(ours, self._gguf)
            self._facts[OURS] = self._runners[OURS].facts
            self._bench.warm_up(self._runners[OURS])
            for peer in peers:
                with self._failures_of(peer.name):
                    self._heat(ours, peer)
                self._close_losers()
            for number in range(1, rounds):
                for cell in self._cells:
                    for name in self._contenders(cell)[:MAX_CONTENDERS]:
                        with self._failures_of(name):
                            self._note(self._pair(cell, number, name))

    def _heat(self, ours: Engine, peer: Engine) -> None:
        self._installer.environment(peer.installation)
        self._installer.model(self._gguf, peer.form, peer.model_path(self._gguf))
        self._engines[peer.name] = peer
        runner, start_s = self._bench.open(peer, self._gguf)
        self._runners[peer.name] = runner
        self._facts[peer.name] = runner.facts
        self._bench.warm_up(runner)
        for cell in self._cells:
            if cell.measure == "start":
                if peer.has_start:
                    self._note(
                        self._bench.start_beside(cell, 0, ours, peer.name, start_s, self._gguf)
                    )
            elif self._has_a_chance(cell, peer.name):
                self._note(self._pair(cell, 0, peer.name))

    def _has_a_chance(self, cell: Cell, name: str) -> bool:
        """False when an engine's prompts alone take too long to come near the best of a cell.

        Prompts are read no faster together than one of 512 tokens; answers are counted as free.
        """
        rates = [
            pair.theirs for pair in self._found.pairs if pair.cell == cell.name and pair.round == 0
        ]
        prefill = [
            pair.theirs
            for pair in self._found.pairs
            if pair.cell == f"prefill-{cell.model}" and pair.engine == name
        ]
        if cell.measure != "together" or not rates or not prefill:
            return True
        bound = prefill[0] * cell.output_tokens / cell.prompt_tokens
        if bound * CONTENDER >= max(rates):
            return True
        reason = f"prompts alone allow {bound:.0f} tokens/s, the best peer has {max(rates):.0f}"
        self._failures[f"{name}, {cell.name}"] = reason
        print(f"{name} is left out of {cell.name}: {reason}", flush=True)
        return False

    def _pair(self, cell: Cell, number: int, name: str) -> Pair:
        if cell.measure == "start":
            ours, theirs = self._engines[OURS], self._engines[name]
            return self._bench.start_pair(cell, number, ours, theirs, self._gguf)
        return self._bench.pair(cell, number, self._runners[OURS], self._runners[name], name)

    def _note(self, pair: Pair) -> None:
        self._found.pairs.append(pair)
        print_pair(pair)

    def _contenders(self, cell: Cell) -> list[str]:
        """Engines that may yet be the best of the cell, best first."""
        heat = {
            pair.engine: pair.ratio
            for pair in self._found.pairs
            if pair.cell == cell.name and pair.round == 0
        }
        best = min(heat.values(), default=0.0)
        names = sorted(heat, key=lambda name: heat[name])
        return [name for name in names if heat[name] <= CONTENDER * best and self._is_open(name)]

    def _is_open(self, name: str) -> bool:
        return name in self._runners

    def _close_losers(self) -> None:
        wanted = {OURS, *(name for cell in self._cells for name in self._contenders(cell))}
        for name in set(self._runners) - wanted:
            self._runners.pop(name).close()

    def _close_all(self) -> None:
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    @contextmanager
    def _failures_of(self, name: str) -> Iterator[None]:
        """A peer that does not install, load or answer is reported, and the others go on."""
        try:
            yield
        except (CommandFailed, RunnerFailed) as error:
            # A record says nothing of where this checkout lies.
            self._failures[name] = str(error).replace(f"{ROOT}/", "")
            print(f"{name} on {self._gguf.stem}: {error}", flush=True)
            if name in self._runners:
                self._runners.pop(name).close()


def main() -> None:
    arguments = parse()
    # Runners are closed on the way out, also when the harness itself is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))
    num_threads = arguments.threads or detect_machine().num_cores
    bench = Bench(Turn(arguments.lock), num_threads, random.Random(arguments.seed))  # noqa: S311 - no secret depends on it
    installer = Installer(bench.turn)
    ours, *peers = engines(num_threads)
    wanted = [peer for peer in peers if arguments.only is None or peer.name in arguments.only
              or peer.peer in arguments.only]  # fmt: skip
    if not wanted:
        sys.exit(f"--only {arguments.only}: allowed are {', '.join(peer.name for peer in peers)}")
    if not any(is_wanted(cell, arguments.cells) for cell in CELLS):
        sys.exit(f"--cells {arguments.cells}: allowed are {', '.join(cell.name for cell in CELLS)}")
    store = ModelStore(resolve_config({}, os.environ).hub)
    found = Findings(
        {"rounds": arguments.rounds, "seed": arguments.seed, "num_threads": num_threads}
    )
    for key, model in MODELS.items():
        cells = [cell for cell in CELLS if cell.model == key and is_wanted(cell, arguments.cells)]
        if cells:
            path = store.pull(model).path
            Contest(bench, installer, path, cells, found).hold(ours, wanted, arguments.rounds)
    print_findings(found)
    record = found.as_json()
    if arguments.record:
        ours_facts = next(iter(found.facts.values()))[OURS]
        name = f"{record['date']}-{ours_facts['ops']}.jsonl"
        with (RESULTS / name).open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


def is_wanted(cell: Cell, names: Sequence[str] | None) -> bool:
    return names is None or cell.name in names or cell.model in names or cell.measure in names


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="the heat is the first of them")
    parser.add_argument("--only", action="append", metavar="ENGINE", help="or peer; repeatable")
    parser.add_argument("--cells", action="append", metavar="CELL", help="or part; repeatable")
    parser.add_argument("--threads", type=int, help="of every engine; default: cores here")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--lock", type=Path, help="hold this file's lock while anything runs")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
