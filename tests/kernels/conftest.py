"""Fixtures of the kernel tests: every implementation of Ops that this machine can run."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest

from headrace.ops.protocol import Ops
from headrace.ops.reference.reference_ops import ReferenceOps

if importlib.util.find_spec("headrace._cpu"):
    from headrace.ops.cpu.cpu_ops import CpuOps
    from headrace.ops.cpu.isa import supported_isas

    _UNSUPPORTED = None
else:
    _UNSUPPORTED = "the C++ extension is not built"

ISAS = ("generic", "avx2", "avx512", "avx512bf16", "amx")


class Once(Protocol):
    """See the fixture of this name."""

    def __call__(self, make: Callable[[], np.ndarray], *names: str) -> np.ndarray: ...


IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""The process is there for the Triton kernels: `make test-cuda-cpu` runs the cases over them."""
if IS_INTERPRETED:
    from kernels.host_cuda_ops import HostCudaOps


def make_cpu_ops(isa: str, num_threads: int = 2) -> Ops:
    """CpuOps of an instruction set; skips where this machine has no such thing."""
    if _UNSUPPORTED is not None:
        pytest.skip(_UNSUPPORTED)
    if isa not in supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    return CpuOps(isa=isa, num_threads=num_threads)


@pytest.fixture(scope="session", params=ISAS)
def cpu_ops(request: pytest.FixtureRequest) -> Ops:
    """The CPU kernels of each instruction set."""
    return make_cpu_ops(request.param)


@pytest.fixture(scope="session", params=("cuda",) if IS_INTERPRETED else ("reference", *ISAS))
def ops(request: pytest.FixtureRequest) -> Ops:
    """Every implementation that works in float32."""
    if request.param == "cuda":
        return HostCudaOps()
    if request.param == "reference":
        return ReferenceOps(np.float32)
    return make_cpu_ops(request.param)


@pytest.fixture(scope="session")
def float8_ops() -> Ops:
    """The implementation of this process that has floats of 8 bits."""
    return HostCudaOps() if IS_INTERPRETED else ReferenceOps(np.float32)


@pytest.fixture(scope="session")
def exact_ops() -> ReferenceOps:
    """The definition of correct: numpy in float64."""
    return ReferenceOps(np.float64)


@pytest.fixture
def case_name(request: pytest.FixtureRequest) -> str:
    """The test's own name, the same for the reference and every instruction set."""
    if IS_INTERPRETED:  # there is one implementation
        return str(request.node.name)
    name, bracket, rest = request.node.name.partition("[")
    words = rest.removesuffix("]").split("-")
    return name + bracket + "-".join(word for word in words if word not in ("reference", *ISAS))


@pytest.fixture
def rng(case_name: str) -> np.random.Generator:
    """Random numbers of the case, the same in every order of tests."""
    return np.random.default_rng(list(case_name.encode()))


@pytest.fixture(scope="session")
def _results() -> dict[tuple[str, ...], Any]:
    return {}


@pytest.fixture
def once(
    request: pytest.FixtureRequest, case_name: str, _results: dict[tuple[str, ...], Any]
) -> Once:
    """Computes what every implementation of a case is held against for the first of them only.

    With `rng` all of them have the same inputs. `names` tell results of one case apart.
    """

    def compute(make: Callable[[], np.ndarray], *names: str) -> np.ndarray:
        key = (request.node.path.name, case_name, *names)
        if key not in _results:
            _results[key] = make()
            _results[key].setflags(write=False)
        return _results[key]

    return compute
