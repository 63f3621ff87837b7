"""Flags of vLLM, its benchmarks and llama-server, and what does the same here.

Loaded when one of them is typed.
"""

from __future__ import annotations

_AS_THE_TEMPLATE = "leave it out: calls and reasoning are read as the model's template writes them"
_NO_PIPELINE = "--tensor-parallel-size N divides a model over N GPUs of one machine"
_ONE_DEVICE = "leave it out: a model is on one device as a whole"

FLAGS = {
    "--api-key": "`headrace keys create NAME` makes a key, also while the server runs",
    "--gpu-memory-utilization": "--memory SIZE, weights included",
    "--pipeline-parallel-size": _NO_PIPELINE,
    "--enable-auto-tool-choice": _AS_THE_TEMPLATE,
    "--tool-call-parser": _AS_THE_TEMPLATE,
    "--reasoning-parser": _AS_THE_TEMPLATE,
    "--jinja": _AS_THE_TEMPLATE,
    "--model": "the model is an argument: headrace serve MODEL",
    "--chat-template-file": "--chat-template FILE",
    "-m": "the model is an argument: headrace serve FILE",
    "-c": "--max-model-len N, for each request",
    "--ctx-size": "--max-model-len N, for each request",
    "-n": "--default-max-tokens N",
    "-np": "--max-num-seqs N",
    "--parallel": "--max-num-seqs N",
    "-t": "--threads N",
    "-ngl": _ONE_DEVICE,
    "--gpu-layers": _ONE_DEVICE,
    "--n-gpu-layers": _ONE_DEVICE,
    "--tp": "--tensor-parallel-size N",
    "-tp": "--tensor-parallel-size N",
    "--dtype": "leave it out: weights stay as their file has them",
    "--trust-remote-code": "leave it out: a model's own code is never run",
    "--enforce-eager": "engine.eager: true in the file of --config",
}
"""What `headrace serve` has in their place; docs/guides/serve.md says so too."""

_URL = "--url URL, such as http://127.0.0.1:8000/v1"
_LENGTHS = "LENGTHS, such as 128 or log:32..512"
BENCH_FLAGS = {
    "--model": "the model is an argument, as in `headrace bench serve MODEL`",
    "-m": "the model is an argument, as in `headrace bench serve MODEL`",
    "--base-url": _URL,
    "--host": _URL,
    "--port": _URL,
    "--endpoint": "--api chat or --api completions",
    "--num-prompts": "--num-requests N",
    "--request-rate": "--rate R, of bench serve",
    "--max-concurrency": "--concurrency N, of bench throughput",
    "--input-len": f"--prompt-tokens {_LENGTHS}",
    "--random-input-len": f"--prompt-tokens {_LENGTHS}",
    "--output-len": f"--output-tokens {_LENGTHS}",
    "--random-output-len": f"--output-tokens {_LENGTHS}",
    "--dataset-path": '--prompts FILE, of lines {"prompt": ...}',
    "--goodput": "--slo LIMITS, such as ttft=500ms,tpot=50ms",
    "--save-result": "--save-json FILE",
    "--extra-body": "--body JSON",
}
"""What `headrace bench` has in the place of flags of `vllm bench`."""
