"""How exact headrace and llama.cpp are on the same file: both against transformers in float32.

    make bench-peers args="--install llama.cpp"   # builds llama-perplexity too
    make bench name=quality/beside_llama_cpp args="--model qwen2.5-coder:1.5b"

llama-perplexity writes its log-probabilities of the second half of every chunk of 128 tokens, in
16 bits over the 16 nats below the best token; the logits of headrace and of the oracle go through
the same rounding before anything is compared. `NLL` is the mean negative log-likelihood of the next
token, `KL` the mean divergence from the oracle, in nats per token. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from headrace.ops.table import make_ops
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from oracle import quality, transformers_logits
from oracle.driver import Driver, load_model
from oracle.real_models import real_model
from quality import model_path

PERPLEXITY = (
    Path(__file__).parents[2] / "build" / "peers" / "llama.cpp" / "amx" / "bin" / "llama-perplexity"
)
CHUNK, BLOCK_SIZE = 128, 32
SCORED = slice(CHUNK // 2, CHUNK - 1)
CLIP_NATS = 16.0

Dense = NDArray[np.float32]


def llama_cpp(path: Path, text: Path, threads: int) -> tuple[list[int], Dense]:
    """Tokens of the chunks, and log-probabilities of their scored rows. Shapes: -> [rows, V]."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "logits"
        command = [PERPLEXITY, "-m", path, "-f", text, "-c", CHUNK, "-b", CHUNK, "-t", threads]
        command += ["--kl-divergence-base", out]
        environment = {**os.environ, "LD_LIBRARY_PATH": str(PERPLEXITY.parent)}
        run = subprocess.run(
            [str(part) for part in command], env=environment, capture_output=True, text=True
        )
        if run.returncode:
            sys.exit(f"llama-perplexity failed: {run.stderr[-500:]}")
        data = out.read_bytes()
    magic, n_ctx, n_vocab, n_chunk = struct.unpack_from("<8sIii", data)
    if magic != b"_logits_" or n_ctx != CHUNK:
        sys.exit(f"llama-perplexity wrote {magic!r} with chunks of {n_ctx} tokens.")
    tokens = np.frombuffer(data, "<i4", n_chunk * n_ctx, 20)
    stride = 2 * ((n_vocab + 1) // 2) + 4  # scale and minimum as floats, then 16 bits a token
    raw = np.frombuffer(data, "<u2", -1, 20 + tokens.nbytes).reshape(-1, stride)
    scale, minimum = raw[:, :4].copy().view("<f4").T
    values = raw[:, 4 : 4 + n_vocab].astype(np.float32)
    return tokens.tolist(), values * scale[:, None] + minimum[:, None]


def rounded(logits: Dense) -> Dense:
    """Log-probabilities as llama-perplexity stores them. Shapes: [rows, V]."""
    exact = quality.log_softmax(logits)
    top = exact.max(axis=1, keepdims=True)
    low = np.maximum(exact.min(axis=1, keepdims=True), top - CLIP_NATS)
    scale = (top - low) / 65535
    steps = np.rint(np.maximum(exact - low, 0) / scale)
    return (steps * scale + low).astype(np.float32)


def compare(oracle: Dense, other: Dense, following: NDArray[np.int64]) -> dict[str, float]:
    """Means over the scored rows."""
    index = np.arange(len(following))
    p, q = oracle.astype(np.float64), other.astype(np.float64)
    return {
        "nll": float(-q[index, following].mean()),
        "oracle_nll": float(-p[index, following].mean()),
        "kl": float((np.exp(p) * (p - q)).sum(axis=1).mean()),
        "same_best": float((p.argmax(axis=1) == q.argmax(axis=1)).mean()),
    }


def scored(run: Callable[[list[int]], Dense], ids: list[int]) -> Dense:
    """What an engine gives for the scored rows, each chunk with a context of its own."""
    chunks = [run(ids[start : start + CHUNK])[SCORED] for start in range(0, len(ids), CHUNK)]
    return rounded(np.concatenate(chunks))


def following(ids: list[int]) -> NDArray[np.int64]:
    """The token after each scored row."""
    after = slice(SCORED.start + 1, SCORED.stop + 1)
    return np.array([t for s in range(0, len(ids), CHUNK) for t in ids[s : s + CHUNK][after]])


def exact(path: Path, tokens: dict[str, list[int]]) -> dict[str, Dense]:
    """The oracle's scored rows by text. It is gone from memory afterwards."""
    oracle = real_model(path)

    def logits(chunk: list[int]) -> Dense:
        return transformers_logits.logits(oracle, chunk)

    return {name: scored(logits, ids) for name, ids in tokens.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder:0.5b", help="name or path of a GGUF file")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--isa", default=None, help="headrace's instruction set; the best if left out"
    )
    args = parser.parse_args()
    if not PERPLEXITY.exists():
        sys.exit(f"{PERPLEXITY} is missing: make bench-peers builds it.")
    path = model_path(args.model)
    texts = sorted(quality.TEXTS.glob("*.txt"))
    theirs = {text.stem: llama_cpp(path, text, args.threads) for text in texts}
    tokenizer = Tokenizer.from_gguf(GgufReader(path).metadata)
    for text in texts:
        ids = theirs[text.stem][0]
        if tokenizer.encode(text.read_text("utf-8"))[: len(ids)] != ids:
            sys.exit(f"llama.cpp splits {text.name} into other tokens.")
    torch.set_num_threads(args.threads)
    expected = exact(path, {name: ids for name, (ids, _) in theirs.items()})
    ops = make_ops("cpu", isa=args.isa, num_threads=args.threads)
    model = load_model(path, ops, max_positions=CHUNK)

    def headrace(chunk: list[int]) -> Dense:
        return Driver(model, CHUNK // BLOCK_SIZE, BLOCK_SIZE).run(chunk, [CHUNK])

    results = []
    print(f"{'text':8} {'engine':10} {'NLL':>8} {'change':>9} {'KL':>9} same best")
    for name, (ids, llama_rows) in theirs.items():
        for engine, rows in (("headrace", scored(headrace, ids)), ("llama.cpp", llama_rows)):
            found = compare(expected[name], rows, following(ids))
            results.append({"text": name, "engine": engine, "rows": len(rows), **found})
            change = found["nll"] / found["oracle_nll"] - 1
            print(
                f"{name:8} {engine:10} {found['nll']:8.4f} {change:+9.3%} {found['kl']:9.5f} "
                f"{found['same_best']:9.2%}"
            )
    print(json.dumps({"benchmark": "beside_llama_cpp", "model": args.model, "results": results}))


if __name__ == "__main__":
    main()
