"""Runner processes: loading, runs, stopping between runs, and every way to fail."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import turn as turns
from protocol import Answer
from runner import Runner, RunnerFailed
from turn import CommandFailed, Turn, run_in_turns

PEERS = Path(turns.__file__).parent
PROGRAM = """
import sys, time
sys.path.insert(0, {peers!r})
from protocol import Answer, serve_runs

class Engine:
    def __init__(self, model, options):
        print("a peer prints what it likes")
        {load}
        self.facts = {{"model": model, "threads": options["num_threads"]}}

    def run(self, prompts, output_tokens):
        {run}
        return [Answer(0.25, 0.5 + index, output_tokens) for index, _ in enumerate(prompts)]

serve_runs(Engine)
"""

Start = Callable[..., Runner]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Runners of a program whose loading and running do what a test wants."""
    runners = []

    def start_runner(load: str = "pass", run: str = "pass") -> Runner:
        program = tmp_path / f"runner-{len(runners)}.py"
        program.write_text(PROGRAM.format(peers=str(PEERS), load=load, run=run))
        runners.append(Runner([sys.executable, str(program)], {}, tmp_path / "logs" / "runner.log"))
        return runners[-1]

    yield start_runner
    for runner in runners:
        runner.close()


def load(runner: Runner, timeout_s: float = 60.0) -> float:
    return runner.load(Turn(None), "a.gguf", {"num_threads": 2}, timeout_s)


def test_it_loads_and_answers_with_times(start: Start) -> None:
    runner = start()
    assert load(runner) > 0
    assert runner.facts == {"model": "a.gguf", "threads": 2}
    assert runner.run([[1, 2], [3]], 7) == [Answer(0.25, 0.5, 7), Answer(0.25, 1.5, 7)]


def test_it_is_stopped_whenever_it_is_not_measured(start: Start) -> None:
    runner = start()
    load(runner)
    assert state_of(runner.pid) == "T"
    runner.run([[1]], 1)
    assert state_of(runner.pid) == "T"


def test_a_slow_load_goes_on_in_the_next_turn(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.SLICE_S", 0.1)
    # Counts what it computes itself: time in which it was stopped must not help.
    runner = start(
        load="end = time.process_time() + 0.4\n        while time.process_time() < end: pass"
    )
    assert load(runner) > 0.4


def test_a_load_without_end_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.SLICE_S", 0.1)
    with pytest.raises(RunnerFailed, match="not ready after 0 s"):
        load(start(load="time.sleep(600)"), timeout_s=0.2)


def test_a_runner_that_dies_says_why(start: Start) -> None:
    with pytest.raises(RunnerFailed, match=r"ended with code 1(.|\n)*no such tensor"):
        load(start(load="raise SystemExit('no such tensor')"))


def test_answers_of_another_length_are_a_failure(start: Start) -> None:
    runner = start(run="output_tokens -= 1")
    load(runner)
    with pytest.raises(RunnerFailed, match=r"asked 1 answers of 7 tokens, got 1 of \[6\]"):
        runner.run([[1]], 7)


def test_a_run_without_answer_is_given_up(start: Start) -> None:
    runner = start(run="time.sleep(600)")
    load(runner)
    with pytest.raises(RunnerFailed, match="no answer within 0 s"):
        runner.run([[1]], 1, timeout_s=0.1)


def test_a_dead_runner_does_not_take_a_run(start: Start) -> None:
    runner = start()
    load(runner)
    os.kill(runner.pid, signal.SIGKILL)
    with pytest.raises(RunnerFailed, match="ended with code -9"):
        runner.run([[1]], 1)


def test_a_command_runs_in_slices_of_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "SLICE_S", 0.05)
    code = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    counted = CountedTurn(tmp_path / "lock")
    run_in_turns([sys.executable, "-c", code + "\nprint('done')"], counted, tmp_path / "log")
    assert (tmp_path / "log").read_text().endswith("done\n")
    assert counted.num_turns > 2


def test_a_failed_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no compiler')"]
    with pytest.raises(CommandFailed, match=r"ended with 1;(.|\n)*no compiler"):
        run_in_turns(command, Turn(None), tmp_path / "log")


class CountedTurn(Turn):
    num_turns = 0

    def __enter__(self) -> None:
        super().__enter__()
        self.num_turns += 1


def state_of(pid: int) -> str:
    """The state letter of /proc: T is stopped. A signal takes a moment to arrive."""
    for _ in range(12_000):
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state == "T":
            break
        time.sleep(0.005)
    return state


def is_free(path: Path) -> bool:
    """Whether another process could take the lock now."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    return True


def test_a_turn_holds_the_lock_and_drops_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    turn = Turn(path, keep_s=0.0)
    with turn:
        assert not is_free(path)
    assert is_free(path)


def test_short_turns_that_follow_each_other_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    turn = Turn(path, keep_s=60.0)
    with turn:
        pass
    assert not is_free(path)
    with turn:
        assert not is_free(path)
    turn.release()
    assert is_free(path)
    turn.release()
