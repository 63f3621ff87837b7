"""headrace and vLLM on one GPU, in turns, on the same requests of token ids with random weights.

Both build a Llama of the true shape. Each turn is a process of its own, so that neither leaves
memory behind; the order is headrace, vLLM, again and again, as far as the time goes. vLLM is found
beside this Python, or in the folder that `--vllm-site` names (docs/guides/cuda.md says how to make
one); without it headrace runs alone. What was found is on the disk after each workload. The last
line is one JSON record with both engines and the ratios.

    python benchmarks/cuda/vs_vllm.py --vllm-site /path/site --out results/
    TRITON_INTERPRET=1 python benchmarks/cuda/vs_vllm.py --dry-run    # headrace alone, tiny
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(Path(__file__).resolve().parent)]

from sections import Recorder, Supervisor, items, missing_packages  # noqa: E402

BUDGET = 560
"""Seconds of all turns."""
IMPORT_SECONDS = 90

WORKLOADS = {
    "batch-1": (1, 128, 128, 256, 256),
    "batch-64": (64, 1024, 1024, 128, 128),
    "batch-256": (256, 512, 512, 128, 128),
    "mixed-1000": (1000, 16, 448, 16, 390),
    "dry-run": (2, 3, 5, 2, 3),
}
"""Requests, shortest and longest prompt, fewest and most output tokens; all arrive at once."""


@dataclass(frozen=True)
class Request:
    """A prompt and how many tokens are wanted; nothing ends it before."""

    prompt: list[int]
    num_output_tokens: int


def make_requests(name: str, vocab_size: int, seed: int = 7) -> list[Request]:
    """The same requests for both engines."""
    count, shortest, longest, fewest, most = WORKLOADS[name]
    rng = np.random.default_rng(seed)
    return [
        Request(
            rng.integers(3, vocab_size, rng.integers(shortest, longest + 1)).tolist(),
            int(rng.integers(fewest, most + 1)),
        )
        for _ in range(count)
    ]


def run_headrace(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """Output tokens per second of each workload, through scheduler and runner."""
    import_module = importlib.import_module  # the parent process needs no torch
    torch, shapes = import_module("torch"), import_module("shapes")
    cuda_ops = import_module("headrace.ops.cuda.cuda_ops")
    driver = import_module("engine_run")
    device, dtype = ("cpu", torch.float32) if arguments.dry_run else ("cuda", torch.bfloat16)
    ops = cuda_ops.CudaOps(device, dtype)
    shape = shapes.SHAPES[arguments.shape]
    run = driver.EngineRun(ops, shape)

    def rate(name: str) -> dict[str, Any]:
        requests = [(r.prompt, r.num_output_tokens) for r in make_requests(name, shape.vocab_size)]
        run.generate(requests)  # buckets are captured, kernels compiled
        return {"tokens_per_s": run.generate(requests), "engine": ops.name,
                "torch": torch.__version__}  # fmt: skip

    for name in arguments.workloads:
        recorder.attempt(name, partial(rate, name))


def run_vllm(arguments: argparse.Namespace, recorder: Recorder) -> None:
    """The same through vLLM with dummy weights and its defaults."""
    torch, shapes = importlib.import_module("torch"), importlib.import_module("shapes")
    vllm = importlib.import_module("vllm")
    shape = shapes.SHAPES[arguments.shape]
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(huggingface_config(shape)))
    engine = vllm.LLM(
        model=str(folder), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16",
        max_model_len=9216, gpu_memory_utilization=0.9, enable_prefix_caching=False,
    )  # fmt: skip

    def rate(name: str) -> dict[str, Any]:
        requests = make_requests(name, shape.vocab_size)
        prompts = [{"prompt_token_ids": request.prompt} for request in requests]
        params = [
            vllm.SamplingParams(
                ignore_eos=True,
                max_tokens=request.num_output_tokens,
                detokenize=False,
                temperature=1.0,
            )
            for request in requests
        ]
        engine.generate(prompts, params, use_tqdm=False)
        start = time.perf_counter()
        outputs = engine.generate(prompts, params, use_tqdm=False)
        took = time.perf_counter() - start
        total = sum(len(output.outputs[0].token_ids) for output in outputs)
        wanted = sum(request.num_output_tokens for request in requests)
        if total != wanted:
            raise RuntimeError(f"{total} tokens came of {wanted}.")
        return {"tokens_per_s": total / took, "engine": f"vllm {vllm.__version__}",
                "torch": torch.__version__}  # fmt: skip

    for name in arguments.workloads:
        recorder.attempt(name, partial(rate, name))


def huggingface_config(shape: Any) -> dict[str, Any]:
    """The config.json of a Llama of this shape."""
    spec = shape.spec
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "hidden_size": shape.hidden_size, "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers, "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads, "head_dim": spec.head_size,
        "vocab_size": shape.vocab_size, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip


def command_of(engine: str, section: str, arguments: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-X", "faulthandler", __file__, "--turn", engine]
    command += ["--section", section, "--record", str(arguments.record)]
    command += ["--shape", arguments.shape, "--workloads", *arguments.workloads]
    return [*command, "--dry-run"] if arguments.dry_run else command


def vllm_environment(site: Path | None) -> dict[str, str]:
    found = os.environ | {
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }  # fmt: skip
    if site is not None:
        found["PYTHONPATH"] = f"{site.resolve()}{os.pathsep}{found.get('PYTHONPATH', '')}"
    return found


def why_no_vllm(environment: dict[str, str]) -> str | None:
    """The last line of what importing it says, None where it can be imported."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from vllm import LLM"], env=environment, capture_output=True,
            text=True, timeout=IMPORT_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"importing it took more than {IMPORT_SECONDS} s"
    return (
        (done.stderr.strip() or "no reason was given").splitlines()[-1] if done.returncode else None
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="llama-3.1-8b", help="one of shapes.SHAPES")
    parser.add_argument("--workloads", nargs="+", choices=sorted(WORKLOADS), default=None)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each engine (2)")
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds in all ({BUDGET})")
    parser.add_argument("--vllm-site", type=Path, help="a folder of packages with vLLM in it")
    parser.add_argument("--out", type=Path, help="a folder for the JSON record and the logs")
    parser.add_argument("--dry-run", action="store_true", help="headrace alone, interpreted, tiny")
    parser.add_argument("--turn", choices=("headrace", "vllm"), help=argparse.SUPPRESS)
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=1e9, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.shape, arguments.workloads, arguments.rounds = "dry-run", ["dry-run"], 1
    names = [name for name in WORKLOADS if name != "dry-run"]
    arguments.workloads = arguments.workloads or names
    if arguments.turn is not None:
        run = run_headrace if arguments.turn == "headrace" else run_vllm
        run(arguments, Recorder(arguments.record, arguments.section, arguments.seconds))
        return 0
    if problem := missing_packages():
        parser.error(problem)
    return take_turns(arguments)


def take_turns(arguments: argparse.Namespace) -> int:
    """headrace and vLLM, round after round; what was found is written after each turn."""
    out = arguments.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    arguments.record = out / "cuda-vs-vllm.jsonl"
    arguments.record.unlink(missing_ok=True)
    supervisor = Supervisor(arguments.record, out / "cuda-vs-vllm.log", arguments.budget)
    environments: dict[str, dict[str, str] | None] = {"headrace": None}
    if not arguments.dry_run:
        environment = vllm_environment(arguments.vllm_site)
        reason = why_no_vllm(environment)
        if reason is None:
            environments["vllm"] = environment
        else:
            supervisor.problems["vllm"] = (
                f"vLLM cannot be imported ({reason}); name a folder that has it by --vllm-site. "
                "headrace runs alone."
            )
            print(supervisor.problems["vllm"], flush=True)
    record = ""
    for number in range(arguments.rounds):
        for engine, environment_of in environments.items():
            section = f"{engine} {number + 1}"
            most = supervisor.seconds_left * (1.0 if number or engine == "vllm" else 0.4)
            command = command_of(engine, section, arguments)
            supervisor.run(section, command, most, environment_of)
            found = items(arguments.record)
            record = json.dumps({
                "name": "cuda/vs_vllm", "shape": arguments.shape, "problems": supervisor.problems,
                "turns": found, "ratios": ratios(found),
            })  # fmt: skip
            (out / "cuda-vs-vllm.json").write_text(record + "\n")
            print(f"{section}: {supervisor.seconds_left:.0f} s left", flush=True)
    for item in items(arguments.record):
        result = item.get("tokens_per_s") or item.get("error") or item.get("skipped")
        print(f"{item['section']:12} {item['name']:12} {result}")
    for section, problem in supervisor.problems.items():
        print(f"{section}: {problem}")
    print(record)
    return 1 if supervisor.problems else 0


def ratios(found: list[dict[str, Any]]) -> dict[str, list[float]]:
    """headrace's rate over vLLM's in the same round, by workload."""
    rates = {(item["section"], item["name"]): item["tokens_per_s"]
             for item in found if "tokens_per_s" in item}  # fmt: skip
    result: dict[str, list[float]] = {}
    for (section, name), rate in rates.items():
        engine, number = section.split()
        other = rates.get((f"vllm {number}", name))
        if engine == "headrace" and other:
            result.setdefault(name, []).append(rate / other)
    return result


if __name__ == "__main__":
    sys.exit(main())
