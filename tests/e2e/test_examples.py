"""Every Python example of README and docs runs, with the real model and no warning."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pages import Block, blocks
from programs import environment
from served_model import ServedModel

# The address and the model that examples for clients write.
ADDRESS = "http://127.0.0.1:8000"
EXAMPLES = list(blocks("python"))


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples_for_both_faces() -> None:
    assert sum("from headrace import" in block.text for block in EXAMPLES) >= 2
    assert sum(ADDRESS in block.text for block in EXAMPLES) >= 1


@pytest.mark.parametrize(
    "block", [b for b in EXAMPLES if ADDRESS not in b.text], ids=lambda block: block.name
)
def test_library_example(block: Block, qwen05_path: object) -> None:
    assert run(block.text).strip()


@pytest.mark.parametrize(
    "block", [b for b in EXAMPLES if ADDRESS in b.text], ids=lambda block: block.name
)
def test_client_example(block: Block, served: ServedModel) -> None:
    assert run(block.text.replace(ADDRESS, served.address)).strip()
