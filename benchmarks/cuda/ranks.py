"""Ranks of a divided model: what they exchange is right, and how long it takes.

A process per rank. First two over gloo, which needs no GPU; then as many over NCCL as there are
GPUs, where there are several: sums and gathers against what they must be, eager and in a captured
graph, and their times at the sizes of a decode step and of a chunk. The last line is one JSON
record; what could not run is named there with its reason. The exit status is 1 where a number is
wrong or a rank failed.

    python benchmarks/cuda/ranks.py              # a checkout, torch, Triton, numpy
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src")]

import torch  # noqa: E402

from headrace.ops.cuda.torch_group import TorchGroup  # noqa: E402

WIDTH, VOCABULARY = 4096, 128256
SIZES = {"decode of 1": 1, "decode of 64": 64, "chunk of 512": 512}
TIMEOUT_S = 300.0


def measured(group: TorchGroup, device: torch.device, rounds: int) -> dict[str, Any]:
    """Deviations and times on this rank. Every element is one that the rank and place name."""
    is_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if is_gpu else torch.float32
    found: dict[str, Any] = {"ms": {}}
    wrong = 0.0
    for name, num_rows in SIZES.items():
        place = torch.arange(num_rows * WIDTH, device=device).reshape(num_rows, WIDTH) % 13
        own = (place + group.rank).to(dtype)
        ranks_sum = sum(range(group.num_ranks))
        wanted = (group.num_ranks * place + ranks_sum).to(dtype)
        wrong = max(wrong, deviation(group.all_reduce(own.clone()), wanted))
        if is_gpu:
            wrong = max(wrong, deviation(captured(group, own), wanted))
        scratch = own.clone()
        found["ms"][f"all_reduce {name}"] = time_of(
            lambda x=scratch: group.all_reduce(x.zero_()), device, rounds
        )
    part = torch.full((4, VOCABULARY // group.num_ranks), float(group.rank), device=device)
    gathered = group.all_gather(part)
    for rank in range(group.num_ranks):
        wrong = max(wrong, deviation(gathered[rank], torch.full_like(part, rank)))
    found["ms"]["all_gather of 4 rows of logits"] = time_of(
        lambda: group.all_gather(part), device, rounds
    )
    return found | {"deviation": wrong}


def deviation(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).abs().max())


def captured(group: TorchGroup, own: torch.Tensor) -> torch.Tensor:
    """The sum as a graph gives it that was captured over other numbers."""
    place, stream = torch.zeros_like(own), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        group.all_reduce(place)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        group.all_reduce(place)
    place.copy_(own)
    graph.replay()
    torch.cuda.synchronize()
    return place


def time_of(call: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median of single calls, the device waited for."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return round(sorted(times[1:])[rounds // 2], 4)


def run_rank(arguments: argparse.Namespace) -> None:
    """One rank, in this process. Rank 0 prints where it is, then what it found."""
    rank, num_ranks = arguments.rank, arguments.num_ranks
    device = torch.device("cuda", rank) if arguments.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    group = TorchGroup(rank, num_ranks, device)
    address = arguments.address
    if rank == 0:
        address = group.open()
        print(address, flush=True)
    group.join(address)
    print(json.dumps(measured(group, device, arguments.rounds)), flush=True)
    group.close()


def run_all(device: str, num_ranks: int, rounds: int) -> dict[str, Any]:
    """Start the ranks and wait for them; what rank 0 measured, and the worst deviation of all."""
    command = [sys.executable, __file__, "--device", device, "--num-ranks", str(num_ranks),
               "--rounds", str(rounds)]  # fmt: skip

    def start(rank: int, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--rank", str(rank), *more], stdout=subprocess.PIPE, text=True
        )

    first = start(0)
    assert first.stdout is not None
    address = first.stdout.readline().strip()
    processes = [first, *(start(rank, "--address", address) for rank in range(1, num_ranks))]
    try:
        texts = [process.communicate(timeout=TIMEOUT_S)[0] for process in processes]
    except subprocess.TimeoutExpired:
        return {"num_ranks": num_ranks, "error": f"not done within {TIMEOUT_S:.0f} s"}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    if any(codes):
        return {"num_ranks": num_ranks, "error": f"ranks ended with {codes}"}
    found = [json.loads(text.splitlines()[-1]) for text in texts]
    return found[0] | {
        "num_ranks": num_ranks, "deviation": max(each["deviation"] for each in found)
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each (20)")
    for name in ("--rank", "--num-ranks"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--device", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        run_rank(arguments)
        return 0
    num_gpus = torch.cuda.device_count()
    skipped = {"skipped": f"NCCL wants a GPU for each rank, and torch sees {num_gpus}"}
    record: dict[str, Any] = {
        "name": "cuda/ranks", "torch": torch.__version__,
        "gloo": run_all("cpu", 2, arguments.rounds),
        "nccl": run_all("cuda", num_gpus, arguments.rounds) if num_gpus > 1 else skipped,
    }  # fmt: skip
    runs = [record[name] for name in ("gloo", "nccl") if "skipped" not in record[name]]
    record["is_good"] = all("error" not in run and run["deviation"] == 0 for run in runs)
    print(json.dumps(record))
    return 0 if record["is_good"] else 1


if __name__ == "__main__":
    sys.exit(main())
