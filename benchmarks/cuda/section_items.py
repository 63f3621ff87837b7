"""What each section of all.py does, by name. In: the arguments. Out: items in the record."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import model_checks
import numpy as np
import op_checks
import speeds
import torch
import triton
from sections import Recorder, items
from shapes import SHAPES

from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.ops.table import describe_gpu, describe_kernels


def run_section(name: str, arguments: argparse.Namespace) -> None:
    """Every item of a section, one after the other."""
    device = "cpu" if arguments.dry_run else "cuda"
    lost = partial(is_lost, device)
    recorder = Recorder(arguments.record, name, arguments.seconds, lost)
    for item, call in section_items(name, arguments, device):
        recorder.attempt(item, call)


def is_lost(device: str) -> bool:
    """Whether an error has left the GPU unusable; memory that an item held is given back."""
    if device != "cuda":
        return False
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return True
    return False


def section_items(name: str, arguments: argparse.Namespace, device: str) -> Iterator[Any]:
    """Names and calls; the ops are made when the first is asked for."""
    is_dry_run = arguments.dry_run
    if name == "device":
        yield "device", lambda: describe(is_dry_run)
        return
    ops = CudaOps(device, torch.float32 if is_dry_run else torch.bfloat16)
    shape = SHAPES["dry-run" if is_dry_run else arguments.shape]
    rng = np.random.default_rng(arguments.seed)
    if name in op_checks.PARTS:
        op_checks.poison()
        yield from op_checks.checks(name, ops, rng, is_dry_run)
        return
    if name == "tokens":
        yield from model_checks.checks(ops, rng, shape, is_dry_run)
        return
    timer, roof = speeds.Timer(device, arguments.rounds), find_roof(arguments.record)
    if name == "roofs":
        yield from speeds.roofs(ops, timer, is_dry_run)
    elif name == "decode":
        yield from speeds.decode(ops, timer, shape, roof)
    elif name == "decode-float8":
        yield from speeds.decode_float8(ops, timer, shape, roof)
    elif name == "prefill":
        yield from speeds.prefill(ops, timer, shape, roof)
    elif name == "requests":
        yield from speeds.requests(ops, shape, is_dry_run)
    else:
        yield from speeds.kernels(ops, timer, shape, roof, is_dry_run)


def describe(is_dry_run: bool) -> dict[str, Any]:
    """Versions, the GPU, its free memory, and which kernel does what."""
    found: dict[str, Any] = {
        "python": platform.python_version(), "torch": torch.__version__,
        "triton": triton.__version__, "numpy": np.__version__,
    }  # fmt: skip
    if not is_dry_run:
        found["note"] = describe_gpu("cuda")
        found["free_bytes"] = torch.cuda.mem_get_info()[0]
        notes = describe_kernels("cuda")
        found["kernels"] = [f"{note.family}: {note.implementation}" for note in notes]
    return found


def find_roof(record: Path) -> speeds.Roof:
    """What the section of probes found, in this run."""
    found: dict[str, float] = {}
    for item in items(record):
        found |= {key: item[key] for key in ("bytes_per_s", "flops_per_s") if key in item}
    return speeds.Roof(**found)
