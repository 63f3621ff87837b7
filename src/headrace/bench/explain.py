"""What determines speed here: one thing is changed at a time, and each step set beside the roof.

In: ways to open the model (as it is, other weights, other keys and values, guesses, threads), each
with the cases to run on it. Out: an Explanation: points, and factors by their effect. These
machines drift, so each engine has the roof probed while it is open, and rounds alternate between
engines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import Any

from headrace.bench.roofline import NEAR, Factor, Load, Point, Sweep, factors, middle, spread
from headrace.bench.time_limit import TimeLimit
from headrace.core.backend import Backend
from headrace.core.frozen import frozen
from headrace.core.machine import Roof
from headrace.engine.build import WorkPerToken
from headrace.planner.step_times import (
    NotTogether,
    TimedAnswer,
    shared_step_s,
    timed_answer,
    timed_answers,
    words_to_say,
)

MOST_TOKENS, LEAST_TOKENS = 32, 8
# A case takes about so long, whatever the model.
CASE_S = 0.8
# Of so many runs in a row the fastest counts: what is slower met something else on the machine.
# Where time is short one has to do.
REPEATED = 2
# Runs of a case that differ by more met something else that computes here.
BUSY = 1.5
SHORT_WORDS, LONG_WORDS = 20, 400
# What a context has to hold beside a prompt's words, and what a word takes at most.
ROOM_TOKENS, WORD_TOKENS = 128, 2
REPEATS = (
    "Write this list again, word for word, and nothing else:\n"
    "1. The north gate opens at seven and closes at nine.\n"
    "2. The south gate opens at eight and closes at nine.\n"
    "3. The lock keeper writes the level of the water into the book every hour.\n"
    "4. The lock keeper closes the south gate when the level of the water is too high.\n"
)
OWN_WORDS = "Tell a short story about a lighthouse, a goat and a letter that came too late."


@frozen
class Opened:
    """An engine that runs, and what is known of it."""

    backend: Backend
    work: WorkPerToken
    kv_token_bytes: float
    probe: Callable[[], Roof]


@frozen(kw_only=True)
class Case:
    """Something to run. `text` stands in for `num_words`; `has_prompt` keeps its prompt's point;
    with `has_guesses` a step may give several tokens.
    """

    name: str
    num_streams: int = 1
    num_words: int = SHORT_WORDS
    text: str | None = None
    has_prompt: bool = False
    has_guesses: bool = False

    @property
    def prompt_name(self) -> str:
        return f"{self.name}, its prompt"


@frozen
class Variant:
    """A way to open the model, and what to run on it. `has_own_roof`: with other threads."""

    name: str
    open: Callable[[], AbstractAsyncContextManager[Opened]]
    cases: tuple[Case, ...]
    has_own_roof: bool = False


@frozen
class Explanation:
    """All that was found. `explained` are the points whose steps are put into words, `steady` those
    of engines with the same threads, whose roofs differ by the machine alone. `notes` say what
    there was no time for.
    """

    points: tuple[Point, ...]
    factors: tuple[Factor, ...]
    explained: tuple[str, ...] = ()
    steady: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "points": [point.as_json() for point in self.points],
            "factors": [factor.as_json() for factor in self.factors],
            "conclusions": list(conclusions(self)),
        }


async def explain(
    variants: Sequence[Variant],
    sweeps: Sequence[Sweep],
    rounds: int,
    on_case: Callable[[str], None] = lambda name: None,
    limit: TimeLimit | None = None,
) -> Explanation:
    """Run every case of every variant, in rounds; with a limit, what there is time for."""
    limit = limit or TimeLimit()
    found: dict[str, list[Point]] = {}
    roof: Roof | None = None
    spent_s = 0.0
    for _ in range(rounds):
        for variant in variants:
            # As long as the one before; the first is what all others are compared with.
            if found and not limit.has_time_for(spent_s):
                limit.left_out += [case.name for case in variant.cases]
                continue
            begin_s = limit.now_s()
            async with variant.open() as opened:
                known = None if variant.has_own_roof else roof
                async for point in _run(opened, variant.cases, on_case, limit, known):
                    found.setdefault(point.name, []).append(point)
                    roof = roof if variant.has_own_roof else point.roof
            spent_s = limit.now_s() - begin_s if variant is not variants[0] else 0.0
    points = {name: replace(middle(each), spread=spread(each)) for name, each in found.items()}
    own = [name for case in variants[0].cases for name in (case.name, case.prompt_name)]
    return Explanation(
        tuple(points.values()),
        tuple(factors(sweeps, points)),
        tuple(name for name in own if name in points),
        tuple(
            case.name for variant in variants for case in variant.cases if not variant.has_own_roof
        ),
        tuple(limit.notes()),
    )


async def _run(
    opened: Opened,
    cases: Sequence[Case],
    on_case: Callable[[str], None],
    limit: TimeLimit,
    known: Roof | None,
) -> AsyncIterator[Point]:
    """A warm-up, which says how many tokens a case may have, then each case.

    `known` is the newest roof of an engine with the same threads.
    """
    first = await timed_answer(opened.backend, words_to_say(SHORT_WORDS), LEAST_TOKENS)
    allowed = int(CASE_S / shared_step_s([first]))
    num_tokens = max(LEAST_TOKENS, min(MOST_TOKENS, allowed))
    roof = known
    if roof is None or limit.is_ahead_by(0.0):
        roof = opened.probe()
    else:
        limit.num_old_roofs += 1
    room = opened.backend.models()[0].max_model_len - ROOM_TOKENS
    for case in cases:
        on_case(case.name)
        if WORD_TOKENS * case.num_words > room:
            continue
        if limit.num_done and not limit.has_time_for(0.0):
            limit.left_out.append(case.name)
            continue
        begin_s = limit.now_s()
        runs = [await _answers(opened.backend, case, num_tokens)]
        while len(runs) < REPEATED and limit.may_repeat(limit.now_s() - begin_s):
            runs.append(await _answers(opened.backend, case, num_tokens))
        limit.count(len(runs))
        fastest = _fastest(runs)
        if fastest is None:
            limit.apart.append(case.name)
            continue
        slowest_s, fastest_s = max(map(_shared, runs)), shared_step_s(fastest)
        point = _step_point(opened, case, fastest, roof)
        yield replace(point, spread=slowest_s / fastest_s)
        if case.has_prompt:
            firsts = sorted((answers[0] for answers in runs), key=lambda each: each.ttft_s)
            point = _prompt_point(opened, case, firsts[0], roof)
            yield replace(point, spread=firsts[-1].ttft_s / firsts[0].ttft_s)


async def _answers(backend: Backend, case: Case, num_tokens: int) -> list[TimedAnswer]:
    if case.text is None:
        # Prompts take turns: the first answer has to go on until the last one has begun.
        num_tokens = max(num_tokens, case.num_streams)
        return await timed_answers(backend, case.num_streams, case.num_words, num_tokens)
    # Guesses need a text to guess from: twice as long.
    return [await timed_answer(backend, case.text, 2 * num_tokens)]


def _fastest(runs: Sequence[list[TimedAnswer]]) -> list[TimedAnswer] | None:
    """None: in no run all answers shared a step."""
    together = [run for run in runs if _shared(run) > 0]
    return min(together, key=_shared) if together else None


def _shared(run: Sequence[TimedAnswer]) -> float:
    """A shared step; 0 where the answers never ran together. Units: seconds."""
    with suppress(NotTogether):
        return shared_step_s(run)
    return 0.0


def _step_point(opened: Opened, case: Case, answers: Sequence[TimedAnswer], roof: Roof) -> Point:
    step_s = shared_step_s(answers)
    count, context = len(answers), round(answers[0].mean_context)
    return Point(
        name=case.name,
        load=Load(
            num_streams=count,
            num_rows=count,
            num_heads=count,
            context_tokens=context,
            kv_bytes=count * context * opened.kv_token_bytes,
        ),
        is_step=not case.has_guesses,
        step_s=step_s,
        tokens_per_s=count / step_s,
        roof=roof,
        work=opened.work,
    )


def _prompt_point(opened: Opened, case: Case, answer: TimedAnswer, roof: Roof) -> Point:
    count = answer.input_tokens
    return Point(
        name=case.prompt_name,
        load=Load(num_streams=1, num_rows=count, num_heads=1, context_tokens=count, kv_bytes=0.0),
        step_s=answer.ttft_s,
        tokens_per_s=count / answer.ttft_s,
        roof=roof,
        work=opened.work,
    )


def conclusions(found: Explanation) -> Iterator[str]:
    """What follows, in sentences."""
    for is_for_one, of_what in ((False, "tokens of the whole machine"), (True, "one stream")):
        first = next((f for f in found.factors if f.is_for_one == is_for_one), None)
        if first is not None:
            yield (
                f"For {of_what} the largest difference of those tried is {first.factor}: with "
                f"{first.best} {first.times:.1f} times the tokens a second of {first.worst} "
                f"({first.best_tokens_per_s:.1f} and {first.worst_tokens_per_s:.1f})."
            )
    yield from _drift(found)
    yield from _busy(found)
    for point in found.points:
        if point.name in found.explained:
            yield _why(point)
    yield from found.notes


def _drift(found: Explanation) -> Iterator[str]:
    """How far the machine moved: by the probes of engines with as many threads."""
    probes = {point.roof for point in found.points if point.name in found.steady}
    if len(probes) < 2:
        return
    read = sorted(roof.read_bytes_per_s / 1e9 for roof in probes)
    int8 = sorted(roof.int8_ops_per_s / 1e12 for roof in probes)
    most = max(read[-1] / read[0], int8[-1] / int8[0])
    yield (
        f"Meanwhile the machine itself moved between {read[0]:.1f} and {read[-1]:.1f} GB/s of "
        f"reading and {int8[0]:.2f} and {int8[-1]:.2f} TOP/s of int8: a difference of less than "
        f"{most:.1f} times may be its own."
    )


def _busy(found: Explanation) -> Iterator[str]:
    """Runs of one case that cannot both be right."""
    worst = max(found.points, key=lambda point: point.spread, default=None)
    if worst is not None and worst.spread > BUSY:
        yield (
            f"The machine was busy: the same case took up to {worst.spread:.1f} times as long in "
            f"one run as in another ({worst.name}), so a difference of less than that may be the "
            "machine's own. Run it again when nothing else runs here."
        )


def _why(point: Point) -> str:
    """What a step waits for."""
    what = "reading weights, keys and values" if point.bound == "memory" else "multiplying"
    least_s = max(point.memory_s, point.arithmetic_s)
    text = (
        f"{point.name[0].upper()}{point.name[1:]}: {1e3 * point.step_s:.1f} ms, of which {what} "
        f"takes at least {1e3 * least_s:.1f} ms here ({point.share:.0%} of the roof)"
    )
    if point.share >= NEAR:
        return f"{text}: bound by {point.bound}."
    return f"{text}: most of its time goes to what the kernels do besides, not to {point.bound}."
