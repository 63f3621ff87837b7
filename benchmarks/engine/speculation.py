"""Guessed tokens beside plain decoding: work that copies, ordinary chat, and what misleads guesses.

One engine answers each question plainly and with guesses in turn, and the answers must be the same
to the token. A claim is a ratio of plain to guessed seconds within a pair, of decoding alone and of
the whole call. `misleading` are answers drawn from a dozen tokens at a high temperature, and those
that came before are less likely: every pair has been there, each time with another sequel.
`foreign` are ordinary questions whose answers are drawn among all tokens at a temperature at which
no draft model can follow. With `--draft-model` what chat has to gain is more. Usage:

    make bench name=engine/speculation                                # the default model, every set
    python benchmarks/engine/speculation.py --model NAME --sets copy --rounds 3 --record
    python benchmarks/engine/speculation.py --model qwen2.5-coder:1.5b \\
        --draft-model qwen2.5-coder:0.5b --sets chat foreign --record

The last line of stdout is one JSON object. Exits 1 below a limit.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from floors import RESULTS, environment

from headrace import LLM, SamplingParams
from headrace.core.config import DEFAULT_MODEL
from headrace.llm import Generation

TEXTS = Path(__file__).parents[1] / "quality" / "texts"
LIMITS = {"copy": 2.0, "chat": 0.97, "misleading": 0.97, "foreign": 0.97}
"""Of the median ratio of decoding seconds, plain to guessed."""
DRAFT_LIMITS = LIMITS | {"chat": 1.25}

Ask = Callable[[LLM], Sequence[Generation]]
"""Called with the engine, whose guesses are on or off."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One question asked in both ways. Units: seconds; `cpu` is processor time of the process."""

    name: str
    plain_s: float
    guessed_s: float
    plain_decode_s: float
    guessed_decode_s: float
    plain_cpu_s: float
    guessed_cpu_s: float
    num_tokens: int
    num_accepted: int
    num_rejected: int

    @property
    def decode_ratio(self) -> float:
        return self.plain_decode_s / self.guessed_decode_s


def copy_questions() -> dict[str, str]:
    code = (TEXTS / "code.txt").read_text()[:1400]
    prose = (TEXTS / "prose.txt").read_text()[:1600]
    people = "\n".join(
        f"{name};{age};{town}"
        for name, age, town in (
            *(("Ada Byron", 36, "London"), ("Alan Turing", 41, "Wilmslow")),
            *(("Grace Hopper", 85, "Arlington"), ("Edsger Dijkstra", 72, "Nuenen")),
        )
    )
    return {
        "edit": f"Here is a file:\n```python\n{code}\n```\nAnswer with the whole file, unchanged "
        "but for a comment `# checked` in its first line. No explanation.",
        "extract": f"{prose}\n\nRepeat the first two paragraphs of this text word for word.",
        "reformat": f"{people}\n\nWrite these rows as a JSON list of objects with the keys name, "
        "age and town, and then the same list once more as a Markdown table.",
    }


def chat_questions() -> dict[str, str]:
    return {
        "explain": "Explain how a hash map works and when it becomes slow.",
        "letter": "Write a short letter to a neighbour about the noise of a new heat pump.",
        "code": "Write a Python function that merges overlapping intervals, with a short test.",
        "compare": "What speaks for and against renting instead of buying a flat?",
    }


def misleading(vocab_size: int, max_tokens: int) -> list[tuple[tuple[int, ...], SamplingParams]]:
    """Prompts and answers of a dozen tokens in random order."""
    drawn = random.Random(1)  # noqa: S311
    cases = []
    for number in range(9):
        known = [drawn.randrange(1000, vocab_size // 2) for _ in range(12)]
        prompt = tuple(drawn.choice(known) for _ in range(300))
        params = SamplingParams(
            temperature=2.0,
            frequency_penalty=2.0,
            seed=number,
            allowed_token_ids=known,
            max_tokens=max_tokens,
            ignore_eos=True,
        )
        cases.append((prompt, params))
    return cases


def make_questions(sets: Sequence[str], vocab_size: int, max_tokens: int) -> dict[str, Ask]:
    """Every question of some sets, by `set/name`."""
    greedy = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    chatty = SamplingParams(temperature=0.7, top_p=0.95, seed=7, max_tokens=max_tokens)
    wild = SamplingParams(temperature=1.8, seed=7, max_tokens=max_tokens, ignore_eos=True)
    questions: dict[str, Ask] = {}
    for name, text in copy_questions().items():
        questions[f"copy/{name}"] = ask_chat(text, greedy)
    for name, text in chat_questions().items():
        questions[f"chat/{name}"] = ask_chat(text, chatty)
        questions[f"foreign/{name}"] = ask_chat(text, wild)
    cases = misleading(vocab_size, max_tokens)
    for number in range(3):
        questions[f"misleading/{number}"] = ask_prompts(cases[number : number + 1])
    questions["misleading/nine-at-once"] = ask_prompts(cases)
    return {name: ask for name, ask in questions.items() if name.partition("/")[0] in sets}


def ask_chat(text: str, sampling: SamplingParams) -> Ask:
    messages = [{"role": "user", "content": text}]
    return lambda llm: [llm.chat(messages, sampling)]


def ask_prompts(cases: Sequence[tuple[tuple[int, ...], SamplingParams]]) -> Ask:
    prompts, params = [prompt for prompt, _ in cases], [params for _, params in cases]
    return lambda llm: llm.generate(prompts, params)


def measure(name: str, ask: Ask, llm: LLM, is_plain_first: bool) -> Pair:
    """Ask in both ways, one after the other. Raises: RuntimeError when the answers differ."""
    found, cpu_s = {}, {}
    for is_guessed in (False, True) if is_plain_first else (True, False):
        turn_guesses(llm, is_guessed)
        begin_s = time.process_time()
        found[is_guessed] = ask(llm)
        cpu_s[is_guessed] = time.process_time() - begin_s
    left, right = found[False], found[True]
    if [each.completions for each in left] != [each.completions for each in right]:
        raise RuntimeError(f"{name}: the answers differ.")
    return Pair(
        name=name,
        plain_s=whole_s(left),
        guessed_s=whole_s(right),
        plain_decode_s=decode_s(left),
        guessed_decode_s=decode_s(right),
        plain_cpu_s=cpu_s[False],
        guessed_cpu_s=cpu_s[True],
        num_tokens=sum(each.usage.output_tokens for each in left),
        num_accepted=sum(each.usage.accepted_draft_tokens for each in right),
        num_rejected=sum(each.usage.rejected_draft_tokens for each in right),
    )


def turn_guesses(llm: LLM, is_on: bool) -> None:
    drafting = llm.engine.drafting
    if drafting is None:
        raise RuntimeError("The engine was made without guesses.")
    drafting.is_on = is_on


def decode_s(answers: Sequence[Generation]) -> float:
    return max(each.times.decode_s for each in answers if each.times is not None)


def whole_s(answers: Sequence[Generation]) -> float:
    times = [each.times for each in answers if each.times is not None]
    return max(each.queue_s + each.prefill_s + each.decode_s for each in times)


def show(pair: Pair) -> None:
    print(
        f"{pair.name:24} {pair.num_tokens:4} tokens  decode {pair.plain_decode_s:6.2f} s plain, "
        f"{pair.guessed_decode_s:6.2f} s guessed = x{pair.decode_ratio:.2f} (whole "
        f"x{pair.plain_s / pair.guessed_s:.2f}, processor "
        f"x{pair.plain_cpu_s / pair.guessed_cpu_s:.2f})  {pair.num_accepted} right, "
        f"{pair.num_rejected} wrong",
        flush=True,
    )


def summarize(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Per set: median and range of the ratios of decoding, median of the whole call's."""
    results = {}
    for kind in dict.fromkeys(pair.name.partition("/")[0] for pair in pairs):
        own = [pair for pair in pairs if pair.name.startswith(f"{kind}/")]
        ratios = [pair.decode_ratio for pair in own]
        names = dict.fromkeys(pair.name for pair in own)
        results[kind] = {
            "decode_ratio": round(statistics.median(ratios), 3),
            "decode_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "whole_ratio": round(statistics.median(p.plain_s / p.guessed_s for p in own), 3),
            "cpu_ratio": round(statistics.median(p.plain_cpu_s / p.guessed_cpu_s for p in own), 3),
            "accepted": sum(pair.num_accepted for pair in own),
            "rejected": sum(pair.num_rejected for pair in own),
            "num_pairs": len(own),
            "by_question": {
                name: round(statistics.median(p.decode_ratio for p in own if p.name == name), 3)
                for name in names
            },
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--draft-model", help="guess with this model where the text has nothing")
    parser.add_argument("--sets", nargs="+", default=list(LIMITS), choices=list(LIMITS))
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    args = parser.parse_args()
    pairs = []
    limits = DRAFT_LIMITS if args.draft_model else LIMITS
    how = "both" if args.draft_model else "prompt-lookup"
    options = {"speculative": how, "draft_model": args.draft_model, "max_model_len": 2048}
    with LLM(args.model, **options) as llm:
        questions = make_questions(args.sets, llm.engine.vocab_size, args.tokens)
        for name, ask in questions.items():
            turn_guesses(llm, True)
            ask(llm)  # the prompt into the cache, and the draft model's
            for number in range(args.rounds):
                pairs.append(measure(name, ask, llm, number % 2 == 0))
                show(pairs[-1])
        results = summarize(pairs)
        facts = llm.engine.environment
    is_good = True
    for kind, row in results.items():
        is_met = row["decode_ratio"] >= limits[kind]
        is_good = is_good and is_met
        print(
            f"{kind:12} x{row['decode_ratio']} {row['decode_range']}  limit {limits[kind]}  "
            f"{'ok' if is_met else 'BELOW'}"
        )
    record = {
        "benchmark": "engine/speculation",
        **environment(),
        "model": args.model,
        "draft_model": args.draft_model,
        **facts,
        "tokens": args.tokens,
        "results": results,
    }
    if args.record:
        path = RESULTS / f"{record['date']}-{record['ops']}.jsonl"
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
