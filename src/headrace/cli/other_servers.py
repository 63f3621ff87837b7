"""Flags of vLLM and llama-server, and what does the same here. Loaded when one of them is typed."""

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
