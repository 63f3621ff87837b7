"""Every Python example of README and docs runs, with the real model and no warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pages import Block, blocks
from programs import environment
from served_model import ServedModel

from fakes.random_adapter import write_adapter

# The address and the model that examples for clients write.
ADDRESS = "http://127.0.0.1:8000"
EXAMPLES = list(blocks("python"))


WIDTH = 896  # of the model of the examples


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files lie that examples name."""
    folder = tmp_path_factory.mktemp("workplace")
    name = "base_model.model.model.layers.0.self_attn.o_proj"
    matrix = np.full((4, WIDTH), 1e-3, np.float32)
    tensors = {f"{name}.lora_A.weight": matrix, f"{name}.lora_B.weight": matrix.T}
    write_adapter(folder / "adapters" / "sql", tensors, r=4)
    return folder


def run(code: str, folder: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment(),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_examples_for_both_faces() -> None:
    assert sum("from headrace import" in block.text for block in EXAMPLES) >= 2
    assert sum(ADDRESS in block.text for block in EXAMPLES) >= 1


@pytest.mark.parametrize(
    "block", [b for b in EXAMPLES if ADDRESS not in b.text], ids=lambda block: block.name
)
def test_library_example(block: Block, qwen05_path: object, workplace: Path) -> None:
    assert run(block.text, workplace).strip()


@pytest.mark.parametrize(
    "block", [b for b in EXAMPLES if ADDRESS in b.text], ids=lambda block: block.name
)
def test_client_example(block: Block, served: ServedModel) -> None:
    assert run(block.text.replace(ADDRESS, served.address)).strip()
