"""headrace and vLLM on one GPU, in turns, on the same requests of token ids with random weights.

Both build a Llama of the true shape. Each turn is a process of its own, so that neither leaves
memory behind; the order is headrace, vLLM, again and again. vLLM is found beside this Python, or
in the folder that `--vllm-site` names (docs/guides/cuda.md says how to make one). The last line is
one JSON record with both configurations and the ratio.

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
from pathlib import Path
from typing import Any

import numpy as np

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


def run_headrace(shape_name: str, workloads: list[str], is_dry_run: bool) -> dict[str, Any]:
    """Output tokens per second of each workload, through scheduler and runner."""
    import_module = importlib.import_module  # the parent process needs no torch
    torch, shapes = import_module("torch"), import_module("shapes")
    cuda_ops = import_module("headrace.ops.cuda.cuda_ops")
    driver = import_module("engine_run")
    device, dtype = ("cpu", torch.float32) if is_dry_run else ("cuda", torch.bfloat16)
    ops = cuda_ops.CudaOps(device, dtype)
    shape = shapes.SHAPES[shape_name]
    run = driver.EngineRun(ops, shape)
    found = {}
    for name in workloads:
        requests = [(r.prompt, r.num_output_tokens) for r in make_requests(name, shape.vocab_size)]
        run.generate(requests)  # buckets are captured, kernels compiled
        found[name] = run.generate(requests)
    return {"engine": ops.name, "torch": torch.__version__, "tokens_per_s": found}


def run_vllm(shape_name: str, workloads: list[str]) -> dict[str, Any]:
    """The same through vLLM with dummy weights and its defaults."""
    torch, shapes = importlib.import_module("torch"), importlib.import_module("shapes")
    vllm = importlib.import_module("vllm")
    shape = shapes.SHAPES[shape_name]
    folder = Path(tempfile.mkdtemp())
    (folder / "config.json").write_text(json.dumps(huggingface_config(shape)))
    engine = vllm.LLM(
        model=str(folder), load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16",
        max_model_len=9216, gpu_memory_utilization=0.9, enable_prefix_caching=False,
    )  # fmt: skip
    found = {}
    for name in workloads:
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
        engine.generate(prompts, params, use_tqdm=False)
        total = sum(request.num_output_tokens for request in requests)
        found[name] = total / (time.perf_counter() - start)
    return {"engine": f"vllm {vllm.__version__}", "torch": torch.__version__, "tokens_per_s": found}


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


def take_turn(engine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one engine in a process of its own. Raises: SystemExit with what it said."""
    command = [sys.executable, __file__, "--turn", engine, "--shape", arguments.shape]
    command += ["--workloads", *arguments.workloads]
    environment = dict(os.environ)
    if arguments.dry_run:
        command.append("--dry-run")
    if engine == "vllm":
        environment |= {
            "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
            "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }  # fmt: skip
        if arguments.vllm_site is not None:
            before = environment.get("PYTHONPATH", "")
            environment["PYTHONPATH"] = f"{arguments.vllm_site}{os.pathsep}{before}"
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{engine} failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="llama-3.1-8b", help="one of shapes.SHAPES")
    parser.add_argument("--workloads", nargs="+", choices=sorted(WORKLOADS), default=None)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each engine (2)")
    parser.add_argument("--vllm-site", type=Path, help="a folder of packages with vLLM in it")
    parser.add_argument("--out", type=Path, help="a folder for the JSON record")
    parser.add_argument("--dry-run", action="store_true", help="headrace alone, interpreted, tiny")
    parser.add_argument("--turn", choices=("headrace", "vllm"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.dry_run:
        arguments.shape, arguments.workloads, arguments.rounds = "dry-run", ["dry-run"], 1
    names = [name for name in WORKLOADS if name != "dry-run"]
    arguments.workloads = arguments.workloads or names
    if arguments.turn == "headrace":
        print(json.dumps(run_headrace(arguments.shape, arguments.workloads, arguments.dry_run)))
        return 0
    if arguments.turn == "vllm":
        print(json.dumps(run_vllm(arguments.shape, arguments.workloads)))
        return 0
    engines = ["headrace"] if arguments.dry_run else ["headrace", "vllm"]
    turns = [
        {"engine": engine, **take_turn(engine, arguments)}
        for _ in range(arguments.rounds)
        for engine in engines
    ]
    for turn in turns:
        print(turn)
    record = json.dumps({"name": "cuda/vs_vllm", "shape": arguments.shape, "turns": turns,
                         "ratios": ratios(turns, arguments.workloads)})  # fmt: skip
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "cuda-vs-vllm.json").write_text(record + "\n")
    print(record)
    return 0


def ratios(turns: list[dict[str, Any]], workloads: list[str]) -> dict[str, list[float]]:
    """headrace's rate over that of the vLLM turn after it, by round."""
    pairs = [pair for pair in zip(turns[::2], turns[1::2], strict=False)
             if pair[1]["engine"].startswith("vllm")]  # fmt: skip
    return {
        name: [mine["tokens_per_s"][name] / theirs["tokens_per_s"][name] for mine, theirs in pairs]
        for name in workloads
    }


if __name__ == "__main__":
    sys.exit(main())
