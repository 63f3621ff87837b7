"""What an int8 KV cache costs in quality, beside bf16, on the same kernels and texts.

    make bench name=quality/kv_cache
    python benchmarks/quality/kv_cache.py --model qwen2.5-coder:1.5b --record

Three measures. `NLL` and `KL` of fixed texts, int8 against bf16, in nats per token, and how often
both put the same token first, which is how often greedy decoding agrees. Free greedy answers: how
many tokens are equal before the first that differs. A number hidden in a long text at several
depths and asked for at its end: how many each cache finds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from floors import RESULTS, environment

from headrace import LLM, SamplingParams
from headrace.config.resolve import resolve_config
from headrace.hub.model_store import ModelStore
from headrace.ops.protocol import KVCacheDtype
from headrace.ops.table import make_ops
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader
from oracle import quality
from oracle.driver import Driver, load_model

BLOCK_SIZE = 32
STEP_TOKENS = 256
DTYPES: tuple[KVCacheDtype, ...] = ("bf16", "int8")
DEPTHS = (0.05, 0.35, 0.65, 0.95)
NUMBERS = (73914, 20586, 49127, 86305)
QUESTION = "What is the secret number of the archive? Answer with the number alone."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="qwen2.5-coder:0.5b", help="name or path of a GGUF file")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens of each text")
    parser.add_argument("--context", type=int, default=4096, help="tokens around the number; 0: no")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    return parser.parse_args()


def measure_texts(path: Path, max_tokens: int, threads: int) -> tuple[list[dict[str, Any]], str]:
    """A row per text, and the name of the kernels."""
    tokenizer = Tokenizer.from_gguf(GgufReader(path).metadata)
    ops = make_ops("cpu", num_threads=threads)
    model = load_model(path, ops, max_positions=max_tokens)
    rows = []
    for name, text in quality.texts().items():
        ids = tokenizer.encode(text)[:max_tokens]
        plain, small = (
            Driver(model, -(-max_tokens // BLOCK_SIZE), BLOCK_SIZE, kv_cache_dtype=dtype).run(
                ids, [STEP_TOKENS]
            )
            for dtype in DTYPES
        )
        found = quality.compare(plain, small, ids)
        rows.append({"text": name, **asdict(found), "nll_change": found.nll_change})
    return rows, ops.name


def measure_answers(
    model: str, prompts: Sequence[str], context: int, threads: int
) -> dict[KVCacheDtype, dict[str, Any]]:
    """Greedy answers, numbers found, and bytes of cache per token, by the cache's type."""
    results: dict[KVCacheDtype, dict[str, Any]] = {}
    for dtype in DTYPES:
        options = {"num_threads": threads, "max_model_len": max(context, 512) + 512}
        with LLM(model, kv_cache_dtype=dtype, **options) as llm:
            capacity = llm.engine.capacity
            greedy = SamplingParams(temperature=0.0, max_tokens=96)
            answers = [each.completions[0].token_ids for each in llm.generate(prompts, greedy)]
            found = [
                str(number) in ask(llm, hide(llm, context, depth, number))
                for depth, number in zip(DEPTHS, NUMBERS, strict=True)
                if context
            ]
        results[dtype] = {
            "answers": answers,
            "num_found": sum(found),
            "bytes_per_token": capacity.kv_bytes / capacity.num_kv_tokens,
        }
    return results


def hide(llm: LLM, context: int, depth: float, number: int) -> str:
    """A text of about `context` tokens with a sentence about the number at this depth."""
    words = quality.texts()["prose"].split()
    tokens_per_word = len(llm.engine.tokenizer.encode(" ".join(words))) / len(words)
    wanted = int(context / tokens_per_word)
    many = [words[i % len(words)] for i in range(wanted)]
    many.insert(int(wanted * depth), f"The secret number of the archive is {number}.")
    return " ".join(many)


def ask(llm: LLM, text: str) -> str:
    messages = [{"role": "user", "content": f"{text}\n\n{QUESTION}"}]
    return llm.chat(messages, SamplingParams(temperature=0.0, max_tokens=24)).text


def equal_tokens(results: dict[KVCacheDtype, dict[str, Any]]) -> list[int]:
    """Tokens of each answer before the two caches differ."""
    counts = []
    for plain, small in zip(*(results[dtype].pop("answers") for dtype in DTYPES), strict=True):
        pairs = list(zip(plain, small, strict=False))
        counts.append(next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs)))
    return counts


def show(record: dict[str, Any]) -> None:
    print(f"{'text':8} {'tokens':>6} {'NLL':>8} {'change':>9} {'KL':>9} {'worst KL':>9} same best")
    for row in record["texts"]:
        print(
            f"{row['text']:8} {row['num_tokens']:6} {row['nll']:8.4f} {row['nll_change']:+9.3%} "
            f"{row['kl']:9.5f} {row['max_kl']:9.4f} {row['top1_agreement']:9.2%}"
        )
    print(f"greedy answers of 96 tokens, equal before they differ: {record['equal_tokens']}")
    for dtype in DTYPES:
        row = record[dtype]
        print(
            f"{dtype}: {row['bytes_per_token']:.0f} bytes per token, "
            f"{row['num_found']} of {len(DEPTHS)} numbers found in {record['context']} tokens"
        )


def main() -> None:
    args = arguments()
    store = ModelStore(resolve_config(flags={}, environ=os.environ, config_file=None).hub)
    texts, ops_name = measure_texts(store.pull(args.model).path, args.max_tokens, args.threads)
    prompts = [text[:400] for text in quality.texts().values()]
    answers = measure_answers(args.model, prompts, args.context, args.threads)
    record = {
        "benchmark": "quality/kv_cache",
        **environment(),
        "model": args.model,
        "ops": ops_name,
        "context": args.context,
        "texts": texts,
        "equal_tokens": equal_tokens(answers),
        **answers,
    }
    show(record)
    if args.record:
        with (RESULTS / f"{record['date']}-{ops_name}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
