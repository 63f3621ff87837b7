"""Who is measured: each peer's environment, runner, form of the model, and what it cannot do.

In: the folder of installations, a model as headrace finds it. Out: commands and environments of
runner processes. A peer is a row here; installing it is `install.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "peers"
MODELS = BUILD / "models"

LLAMA_CPP = "llama.cpp"
OURS = "headrace"

Form = Literal["gguf", "bf16", "openvino-int4", "openvino-int8"]
OPENVINO_FORMS: dict[str, Form] = {
    "openvino-gguf": "gguf",
    "openvino-int4": "openvino-int4",
    "openvino-int8": "openvino-int8",
}


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run one peer. Engines of one `peer` compete; the best of them counts.

    `runner` is a file of this folder, `installation` a name that `install.py` knows ("" is
    headrace's own), `form` what the model must be. A tool that only benchmarks has no start.
    """

    name: str
    peer: str
    runner: str
    installation: str
    form: Form
    variables: Mapping[str, str] = field(default_factory=dict)
    has_start: bool = True

    @property
    def command(self) -> list[str]:
        """The runner, with the Python of its environment, or ours where it needs none."""
        python = BUILD / self.installation / "bin" / "python"
        has_own = bool(self.installation) and self.installation != LLAMA_CPP
        return [str(python) if has_own else sys.executable, str(HERE / self.runner)]

    def model_path(self, gguf: Path) -> Path:
        """Where the form of the model lies that this engine reads."""
        return gguf if self.form == "gguf" else MODELS / f"{gguf.stem}-{self.form}"


def _llama_cpp() -> list[Engine]:
    """The server, and the benchmarks with the AMX kernels and without them."""
    amx, no_amx = (str(BUILD / LLAMA_CPP / folder / "bin") for folder in ("amx", "no-amx"))
    programs = {"LLAMA_CPP_BIN": amx, "LD_LIBRARY_PATH": amx}
    # Libraries of the first folder come before those of the second, where the programs are.
    without = {"LLAMA_CPP_BIN": amx, "LD_LIBRARY_PATH": f"{no_amx}:{amx}"}
    server, bench = "run_llama_server.py", "run_llama_bench.py"
    return [
        Engine("llama-server", LLAMA_CPP, server, LLAMA_CPP, "gguf", programs),
        Engine("llama-bench", LLAMA_CPP, bench, LLAMA_CPP, "gguf", programs, False),
        Engine("llama-bench-no-amx", LLAMA_CPP, bench, LLAMA_CPP, "gguf", without, False),
    ]


def engines(num_threads: int) -> list[Engine]:
    """headrace first, then every peer's engines."""
    cpus = sorted(os.sched_getaffinity(0))[:num_threads]
    apart = {"PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(num_threads)}
    vllm = {
        **apart,
        # Units: GiB. Without a list of threads one core is left to a server that is not there.
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(BUILD / "vllm" / "cache"),
        # Advised by vLLM's manual for CPU; its wheel brings it.
        "LD_PRELOAD": str(BUILD / "vllm" / "lib" / "libiomp5.so"),
    }
    return [
        Engine(OURS, OURS, "run_headrace.py", "", "gguf"),
        Engine("vllm", "vLLM CPU", "run_vllm.py", "vllm", "bf16", vllm),
        *_llama_cpp(),
        *(
            Engine(name, "OpenVINO GenAI", "run_openvino.py", "openvino", form, apart)
            for name, form in OPENVINO_FORMS.items()
        ),
        Engine(
            "transformers", "transformers", "run_transformers.py", "transformers", "bf16", apart
        ),
    ]
