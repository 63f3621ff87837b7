"""What holding answers to a form costs: compiling, masks, and whole answers beside free ones.

First the vocabulary is read and each form is followed through random allowed tokens, one mask at a
time. Then rounds alternate free and bound answers of equal length, alone and in batches; a claim is
a ratio within its round. Usage:

    make bench name=engine/structured_outputs                         # the default model
    python benchmarks/engine/structured_outputs.py --model FILE --rounds 5

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "kernels"))

from timing import print_record, summary

from headrace import LLM, SamplingParams, StructuredOutputs
from headrace.core.config import DEFAULT_MODEL
from headrace.sampling.grammar import GrammarCompiler, GrammarRule

PEOPLE = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "minItems": 100,
}
FORMS = {
    "people": StructuredOutputs(json=PEOPLE),
    "regex": StructuredOutputs(regex=r"(\+[0-9]{1,3} )?([0-9]{3}-){20}"),
    "choice": StructuredOutputs(choice=[f"The answer is number {i}." for i in range(200)]),
    "grammar": StructuredOutputs(
        grammar='root ::= term ("+" term){9,}\nterm ::= [0-9]{1,3} | "(" term "*" term ")"'
    ),
}


def follow(
    compiler: GrammarCompiler, form: StructuredOutputs, max_tokens: int
) -> tuple[list[float], list[float]]:
    """Seconds of each mask and of taking each token, along random allowed tokens."""
    rng = np.random.default_rng(0)
    rule: GrammarRule = compiler.open(form, ignore_eos=True)
    masks, takes = [], []
    while len(takes) < max_tokens and not rule.is_complete:
        start = time.perf_counter()
        compiler.compute_masks([rule])
        masks.append(time.perf_counter() - start)
        bits = np.unpackbits(rule.mask().view(np.uint8), bitorder="little")
        if rule.error is not None or not bits.any():
            raise RuntimeError(f"{form.form} came to no end: {rule.error}")
        token_id = int(rng.choice(np.flatnonzero(bits)))
        start = time.perf_counter()
        rule.append(token_id)
        takes.append(time.perf_counter() - start)
    return masks, takes


def measure_masks(llm: LLM, max_tokens: int) -> dict[str, Any]:
    start = time.perf_counter()
    compiler = GrammarCompiler(llm.engine.tokenizer, llm.engine.vocab_size)
    results: dict[str, Any] = {"vocabulary_s": round(time.perf_counter() - start, 3)}
    for name, form in FORMS.items():
        start = time.perf_counter()
        compiler.compile(form)
        compile_s = time.perf_counter() - start
        masks, takes = follow(compiler, form, max_tokens)
        row = {"compile_ms": round(compile_s * 1e3, 2), "num_masks": len(masks)}
        results[name] = row | {"mask": summary(masks), "take": summary(takes)}
    return results


def answer(llm: LLM, num_answers: int, num_tokens: int, form: StructuredOutputs | None) -> float:
    """Seconds of some answers together, each of exactly so many tokens."""
    params = SamplingParams(
        max_tokens=num_tokens, temperature=0.8, seed=1, ignore_eos=True, structured_outputs=form
    )
    start = time.perf_counter()
    done = llm.generate([f"{i} people as JSON:" for i in range(num_answers)], params)
    seconds = time.perf_counter() - start
    if any(len(each.completions[0].token_ids) != num_tokens for each in done):
        raise RuntimeError("An answer ended early: the two sides did not do the same work.")
    return seconds


def measure_answers(llm: LLM, num_answers: int, num_tokens: int, rounds: int) -> dict[str, Any]:
    """Ratios of bound to free seconds, after a round that is not counted."""
    pairs = [
        (answer(llm, num_answers, num_tokens, None), answer(llm, num_answers, num_tokens, form))
        for form in [FORMS["people"]] * (rounds + 1)
    ][1:]
    ratios = [bound / free for free, bound in pairs]
    return {
        "free_s": round(statistics.median(free for free, _ in pairs), 3),
        "bound_s": round(statistics.median(bound for _, bound in pairs), 3),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, nargs="+", default=[1, 8, 32])
    args = parser.parse_args()
    with LLM(args.model) as llm:
        results = measure_masks(llm, max_tokens=200)
        for name in FORMS:
            row = results[name]
            mask, take = row["mask"], row["take"]["median_us"]
            print(
                f"{name:8} compile {row['compile_ms']:6.2f} ms   mask {mask['median_us']:4.0f} us "
                f"(max {mask['max_us']:.0f})   take {take:.1f} us"
            )
        for num_answers in args.answers:
            row = measure_answers(llm, num_answers, args.tokens, args.rounds)
            results[f"answers_{num_answers}"] = row
            print(f"{num_answers:3} answers: bound / free {row['ratio']} {row['ratio_range']}")
        settings = {"model": llm.engine.model_info.name, "vocab": llm.engine.vocab_size}
    print_record("structured_outputs", {**settings, "tokens": args.tokens}, results)


if __name__ == "__main__":
    main()
