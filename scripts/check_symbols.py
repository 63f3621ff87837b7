"""Fail if a tier's object defines anything but its one table.

In: object files headrace_<tier>.dir/.../tier.cpp.o. Out: exit status, one line per offence.
A weak copy of an inline function compiled for AVX-512 may be the one that the linker keeps, and an
older CPU then dies in generic code; so weak symbols and second globals are errors, as are static
initialisers, which would run on every CPU.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

_TIER = re.compile(r"tiers/(\w+)/tier\.")
_LOCAL_TYPES = frozenset("tdbrUn")  # local text, data, bss, read-only; undefined; debug


def offences(path: Path, nm: str) -> list[str]:
    """List what `path` defines and must not."""
    tier = _TIER.search(str(path))
    if tier is None:
        return [f"{path}: not the object of a tier"]
    table = f"headrace_ops_{tier.group(1)}"
    listed = subprocess.run([nm, str(path)], check=True, capture_output=True, text=True).stdout
    found, has_table = [], False
    for line in listed.splitlines():
        kind, name = line.split()[-2:]
        if name == table:
            has_table = True
        elif kind not in _LOCAL_TYPES:
            found.append(f"{path.name} of {tier.group(1)}: {name} is global or weak ({kind})")
        if name.startswith(("_GLOBAL__sub_I", "__cxx_global_var_init")):
            found.append(f"{path.name} of {tier.group(1)}: static initialiser {name}")
    if not has_table:
        found.append(f"{path}: {table} is missing")
    return found


def main(paths: list[str]) -> int:
    nm = shutil.which("nm") or shutil.which("llvm-nm")
    if nm is None:
        print("check_symbols: no nm here, skipped")
        return 0
    found = [line for path in paths for line in offences(Path(path), nm)]
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
