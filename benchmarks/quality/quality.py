"""How exact headrace is: likelihood and divergence of fixed texts against transformers in float32.

    make bench name=quality/quality
    python benchmarks/quality/quality.py --model qwen2.5-coder:1.5b --isa avx512

The oracle computes with the same dequantized weights, so that what is measured is headrace's own
arithmetic: activations of int8, keys and values of bfloat16, and its kernels. It is not the loss
that quantizing the file has cost. `NLL` is the mean negative log-likelihood of the next token,
`KL` the mean divergence of headrace's distribution from the oracle's, both in nats per token;
`same best` is how often both put the same token first. The last line is JSON.

Needs the test extra (torch, transformers, gguf) and 4 bytes of memory per weight.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from headrace.config.resolve import resolve_config
from headrace.hub.model_store import ModelStore
from headrace.ops.table import make_ops
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from oracle import quality, transformers_logits
from oracle.driver import Driver, load_model
from oracle.real_models import real_model

BLOCK_SIZE = 32
STEP_TOKENS = 256


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder:0.5b", help="name or path of a GGUF file")
    parser.add_argument("--device", default="cpu", choices=("cpu", "reference"))
    parser.add_argument("--isa", default=None, help="instruction set; the best one if left out")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens of each text")
    return parser.parse_args()


def model_path(name: str) -> Path:
    """A file given by path or, if need be fetched, by name."""
    store = ModelStore(resolve_config(flags={}, environ=os.environ, config_file=None).hub)
    return store.pull(name).path


def measure(args: argparse.Namespace, path: Path) -> list[dict[str, object]]:
    """A row per text: oracle first, so that both models are never in memory together."""
    reader = GgufReader(path)
    tokenizer = Tokenizer.from_gguf(reader.metadata)
    tokens = {k: tokenizer.encode(text)[: args.max_tokens] for k, text in quality.texts().items()}
    torch.set_num_threads(args.threads)
    oracle = real_model(path)
    expected = {name: transformers_logits.logits(oracle, ids) for name, ids in tokens.items()}
    del oracle
    gc.collect()
    ops = make_ops(args.device, isa=args.isa, num_threads=args.threads)
    model = load_model(path, ops, max_positions=args.max_tokens)
    rows: list[dict[str, object]] = []
    for name, ids in tokens.items():
        driver = Driver(model, -(-args.max_tokens // BLOCK_SIZE), BLOCK_SIZE)
        started = time.perf_counter()
        logits = driver.run(ids, [STEP_TOKENS])
        elapsed_s = time.perf_counter() - started
        measured = quality.compare(expected[name], logits, ids)
        row = {"text": name, **asdict(measured), "nll_change": measured.nll_change}
        rows.append({"ops": ops.name, **row, "elapsed_s": elapsed_s})
    return rows


def print_table(rows: list[dict[str, object]]) -> None:
    print(f"{'text':8} {'tokens':>6} {'NLL':>8} {'change':>9} {'KL':>9} {'worst KL':>9} same best")
    for row in rows:
        print(
            f"{row['text']:8} {row['num_tokens']:6} {row['nll']:8.4f} {row['nll_change']:+9.3%} "
            f"{row['kl']:9.5f} {row['max_kl']:9.4f} {row['top1_agreement']:9.2%}"
        )


def main() -> None:
    args = arguments()
    path = model_path(args.model)
    rows = measure(args, path)
    print(f"{args.model} ({path.name}) on {rows[0]['ops']}, against transformers in float32")
    print_table(rows)
    print(json.dumps({"benchmark": "quality", "model": args.model, "rows": rows}))


if __name__ == "__main__":
    main()
