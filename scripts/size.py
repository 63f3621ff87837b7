"""Print lines per package beside the budget in pyproject.toml.

Lines are physical, without blank ones. A package over its budget is marked; the exit code stays 0,
because a number starts a talk and does not end it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
CODE = {".py", ".cpp", ".h", ".inl"}


def count_lines(folder: Path) -> int:
    """Non-blank lines of code files below a folder."""
    files = (path for path in folder.rglob("*") if path.suffix in CODE)
    return sum(1 for path in files for line in path.read_text().splitlines() if line.strip())


def main() -> None:
    budgets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["headrace"]["budgets"]
    source = ROOT / "src" / "headrace"
    folders = {path.name: path for path in sorted(source.iterdir()) if path.is_dir()}
    folders["csrc/cpu"] = ROOT / "csrc" / "cpu"
    folders.pop("__pycache__", None)
    print(f"{'package':<12} {'lines':>6} {'budget':>7}")
    for name, folder in folders.items():
        lines, budget = count_lines(folder), budgets.get(name)
        mark = " over" if budget and lines > budget else ""
        print(f"{name:<12} {lines:>6} {budget or '-':>7}{mark}")


if __name__ == "__main__":
    main()
