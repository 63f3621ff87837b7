"""Run the tests of the `amx` tier on a CPU without AMX: its tiles are built to lie in memory.

Products of integers have the bits of a CPU's tiles; those of bf16 pairs are as exact, and may add
in another order (csrc/cpu/tiers/amx/emulated_tiles.h). Speed says nothing. Sources are linked, not
copied, so nothing of this tree changes. Exits 0 without a test where the CPU has AMX, since `make
test` runs these cases there, or where it lacks what the kernels use beside tiles.

    python scripts/test_amx.py [arguments of pytest]
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from headrace.ops.cpu.isa import all_isas

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "emulated"
LACKS_VBMI = "the CPU lacks AVX512-VBMI"
"""What detect.cpp says of a CPU such as Cooper Lake, which has AVX512-BF16 without it."""
TESTS = ("tests/kernels", "tests/consistency", "tests/models", "tests/unit/ops")


def link_sources() -> None:
    """The package as links, so that an extension of its own lies beside its modules."""
    package = FOLDER / "src" / "headrace"
    for link in package.rglob("*"):
        if link.is_symlink() and not link.exists():
            link.unlink()
    for path in (ROOT / "src" / "headrace").rglob("*"):
        link = package / path.relative_to(ROOT / "src" / "headrace")
        if "__pycache__" in path.parts or path.name.startswith("_cpu.") or path.is_dir():
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path)


def build() -> None:
    """Configure and compile, incrementally."""
    cmake, ninja = (str(Path(sys.executable).with_name(name)) for name in ("cmake", "ninja"))
    configure = [
        cmake,
        *("-S", str(ROOT), "-B", str(FOLDER / "cmake"), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={ninja}",
        f"-DPython_EXECUTABLE={sys.executable}",
        "-DHEADRACE_EMULATE_TILES=ON",
        f"-DHEADRACE_OUTPUT={FOLDER / 'src' / 'headrace'}",
    ]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([cmake, "--build", str(FOLDER / "cmake")], check=True)


def make_python() -> Path:
    """An environment that has this one's packages, and imports headrace from the links."""
    home = FOLDER / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True)
    paths = (FOLDER / "src", sysconfig.get_path("purelib"))
    Path(found.stdout.strip(), "headrace.pth").write_text("".join(f"{path}\n" for path in paths))
    return python


def main() -> None:
    found = {status.name: status for status in all_isas()}
    if found["amx"].is_available:
        print("this CPU has AMX: make test runs these cases")
        return
    if not found["avx512bf16"].is_available:
        print(f"not run, the cases want AVX512-BF16: {found['avx512bf16'].reason}")
        return
    link_sources()
    build()
    python = make_python()
    asked = "from headrace.ops.cpu.isa import all_isas; print(all_isas()[-1].reason)"
    answer = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True)
    reason = answer.stdout.strip()
    if reason == LACKS_VBMI:
        print(f"not run: {reason}")
        return
    if reason:
        sys.exit(f"the extension with tiles in memory has no amx tier: {reason}")
    command = [python, "-m", "pytest", "-k", "amx", *TESTS, *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
