"""The GPU: what it is, or one sentence why it cannot be used.

In: a torch device. Out: DeviceFacts. Owns the oldest architecture and driver that are accepted.
"""

from __future__ import annotations

from pathlib import Path

import torch

from headrace.core.errors import ConfigError
from headrace.core.extras import install_command
from headrace.core.frozen import frozen
from headrace.core.units import format_bytes

MIN_ARCHITECTURE = (8, 0)
"""Ampere: bfloat16 and asynchronous copies; kernels are compiled for sm_80 and sm_90a in tests."""
DRIVER_FILE = Path("/proc/driver/nvidia/version")


@frozen
class DeviceFacts:
    """Units: bytes. `architecture` is 90 for compute capability 9.0."""

    name: str
    architecture: int
    num_sms: int
    memory_bytes: int
    driver: str


def open_device(device: torch.device) -> DeviceFacts:
    """Look at the device. Raises: ConfigError with what is missing and what to do."""
    reason = why_unusable()
    if reason is not None:
        raise ConfigError("engine.device", "cuda", "cpu, reference", reason)
    found = torch.cuda.get_device_properties(device)
    capability = (found.major, found.minor)
    if capability < MIN_ARCHITECTURE:
        raise ConfigError(
            "engine.device", "cuda", "cpu, reference",
            f"{found.name} has compute capability {found.major}.{found.minor}; the kernels need "
            "8.0 (Ampere) or later.",
        )  # fmt: skip
    return DeviceFacts(
        name=found.name,
        architecture=10 * found.major + found.minor,
        num_sms=found.multi_processor_count,
        memory_bytes=found.total_memory,
        driver=driver_version() or "unknown",
    )


def check_num_gpus(num_ranks: int) -> None:
    """Raises: ConfigError without a GPU for each rank."""
    reason = why_unusable()
    if reason is not None:
        raise ConfigError("engine.device", "cuda", "cpu, reference", reason)
    num_gpus = torch.cuda.device_count()
    if num_gpus < num_ranks:
        raise ConfigError(
            "engine.tensor_parallel_size", num_ranks, f"1 to {num_gpus} on this machine",
            f"torch sees {num_gpus} GPUs; CUDA_VISIBLE_DEVICES says which ones it may see.",
        )  # fmt: skip


def describe() -> str:
    """The GPU as one line for people. Raises: ConfigError, as open_device does."""
    found = open_device(torch.device("cuda"))
    return (
        f"{found.name}, compute capability {found.architecture / 10}, {found.num_sms} "
        f"multiprocessors, {format_bytes(found.memory_bytes)}, driver {found.driver}, "
        f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    )


def why_unusable(driver_file: Path = DRIVER_FILE) -> str | None:
    """One sentence on why torch cannot reach a GPU, None where it can."""
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA; install a CUDA build of torch, as "
            f"`{install_command('cuda')}` does."
        )
    if torch.cuda.is_available():
        return None
    driver = driver_version(driver_file)
    if driver is None:
        return "No NVIDIA driver is loaded on this machine; install one, or take device cpu."
    return (
        f"The NVIDIA driver {driver} cannot run torch {torch.__version__}, which needs CUDA "
        f"{torch.version.cuda}; update the driver, make a GPU visible (CUDA_VISIBLE_DEVICES), or "
        "take device cpu."
    )


def driver_version(driver_file: Path = DRIVER_FILE) -> str | None:
    """The loaded kernel driver's version, None without one."""
    try:
        words = driver_file.read_text().split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)
