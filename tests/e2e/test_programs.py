"""What tests start ends with them, however they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from programs import environment, eventually

# Both sleep until they are killed.
RUNNER = """
import sys, time
from pathlib import Path
from programs import beside

command = [sys.executable, "-c", "import time; time.sleep(600)"]
with beside(command, Path(sys.argv[1])) as program:
    print(program.process.pid, flush=True)
    time.sleep(600)
"""


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_program_ends_with_the_group_of_its_test(tmp_path: Path) -> None:
    """As where `timeout` or a terminal that is closed ends the tests: no server goes on alone."""
    with subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(tmp_path)],
        cwd=Path(__file__).parent,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as runner:
        assert runner.stdout is not None
        program = psutil.Process(int(runner.stdout.readline()))
        os.killpg(runner.pid, signal.SIGKILL)
    try:
        eventually(lambda: has_ended(program), "the program has ended", 60)
    finally:
        if not has_ended(program):
            program.kill()
