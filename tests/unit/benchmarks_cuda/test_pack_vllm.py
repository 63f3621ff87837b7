"""Wheels to pieces and back: what is dropped, what is cut, what a shell makes of it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

SCRIPT = Path(__file__).parents[3] / "scripts" / "pack_vllm.py"
FILES = {
    "vllm/__init__.py": b"version = 1",
    "vllm/_C_stable_libtorch.abi3.so": os.urandom(3 << 20),
    "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so": os.urandom(1000),
    "vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so": b"kernels",
    "vllm/_moe_C_stable_libtorch.abi3.so": os.urandom(1000),
}


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)


def test_pieces_become_the_folder_that_is_kept(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "vllm-1-py3-none-any.whl", FILES)
    wheel(tmp_path / "wheels", "msgspec-1-py3-none-any.whl", {"msgspec/__init__.py": b"small"})
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "wheels", tmp_path / "pieces", "--piece-mib", "1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pieces = sorted((tmp_path / "pieces").iterdir())
    assert len(pieces) == len(done.stdout.splitlines()) == 4
    assert all(piece.stat().st_size <= 1 << 20 for piece in pieces)
    site = tmp_path / "site"
    site.mkdir()
    command = "cat pieces/* | tar -xJf - -C site"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    found = {str(path.relative_to(site)): path.read_bytes()
             for path in site.rglob("*") if path.is_file()}  # fmt: skip
    kept = {path: data for path, data in FILES.items() if "fa2" not in path and "moe" not in path}
    assert found == kept | {"msgspec/__init__.py": b"small"}


def test_a_folder_without_wheels_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path, tmp_path / "pieces"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "holds no wheels" in done.stderr
