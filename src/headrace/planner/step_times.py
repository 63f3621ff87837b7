"""StepTimes: how long a step of a tier takes, by what is in it. Measured, not derived.

In: runs of a backend at several batch sizes and prompt lengths. Out: a table that the simulation of
`capacity` reads: seconds of a step that goes on with B answers, of one with prompt tokens too, and
seconds more for each token that its answers look back on. Units: seconds, tokens.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from headrace.core.backend import Backend
from headrace.core.errors import BackendError
from headrace.core.frozen import frozen
from headrace.core.message import Message
from headrace.core.request import GenerateRequest, SamplingParams

BATCH_SIZES = (1, 2, 4, 8, 16)
PROMPT_WORDS = (20, 400)
ANSWER_TOKENS = 32
# Answers at once, words of their prompts: first batches, then the lengths of prompts in turns.
RUNS = (
    *((size, PROMPT_WORDS[0]) for size in BATCH_SIZES),
    *((1, num_words) for _ in range(3) for num_words in PROMPT_WORDS),
)
# A prompt alone meets a machine at rest, where it takes 5 to 15 % longer than right after others
# (docs/log, November 23).
REST_S = 0.5
_WORD = "river stone paper window orange "


@frozen
class StepTimes:
    """`decode_s[i]` is a step with `batch_sizes[i]` answers; between them it goes along a line.

    Each of those answers looked back on `base_context` tokens; more of them take `context_token_s`.
    A row of a step takes `prompt_token_s` where it has prompts alone, `mixed_token_s` where answers
    go on beside them; None: as alone.
    """

    batch_sizes: tuple[int, ...]
    decode_s: tuple[float, ...]
    prompt_token_s: float
    prompt_base_s: float
    context_token_s: float = 0.0
    base_context: float = 0.0
    mixed_token_s: float | None = None

    @staticmethod
    def read(entry: Mapping[str, Any]) -> StepTimes:
        """From JSON."""
        return StepTimes(
            tuple(entry["batch_sizes"]),
            tuple(entry["decode_s"]),
            float(entry["prompt_token_s"]),
            float(entry["prompt_base_s"]),
            float(entry.get("context_token_s", 0.0)),
            float(entry.get("base_context", 0.0)),
            entry.get("mixed_token_s"),
        )

    def step_s(
        self, num_answers: int, num_prompt_tokens: int, num_context_tokens: float = 0.0
    ) -> float:
        """A step with answers, which look back on so many tokens together, and prompt tokens."""
        rows = num_answers + num_prompt_tokens
        step_s = self._decode_s(max(num_answers, min(rows, self.batch_sizes[-1])))
        if num_prompt_tokens:
            # Weights are read once for all rows, whosever they are.
            is_mixed = num_answers > 0 and self.mixed_token_s is not None
            row_s = self.mixed_token_s if is_mixed else self.prompt_token_s
            step_s = max(step_s, self.prompt_base_s + rows * (row_s or 0.0))
        more = max(0.0, num_context_tokens - num_answers * self.base_context)
        return step_s + more * self.context_token_s

    def _decode_s(self, num_rows: int) -> float:
        sizes, times = self.batch_sizes, self.decode_s
        if num_rows <= sizes[-1] or len(sizes) == 1:
            return float(np.interp(num_rows, sizes, times))
        slope = (times[-1] - times[-2]) / (sizes[-1] - sizes[-2])
        return times[-1] + max(0.0, slope) * (num_rows - sizes[-1])


class NotTogether(BackendError):
    """No step had all answers in it."""


@frozen
class TimedAnswer:
    """An answer as it came: how many tokens there were at which moment."""

    begin_s: float
    input_tokens: int
    marks: tuple[tuple[float, int], ...]

    @property
    def ttft_s(self) -> float:
        return self.marks[0][0] - self.begin_s

    @property
    def mean_context(self) -> float:
        """Tokens that its steps looked back on, on average."""
        return self.input_tokens + self.marks[-1][1] / 2


@frozen
class StepRun:
    """One of the RUNS. `step_s` None: its answers did not run together.

    From the first token of its first answer to that of its last, `joining_s` passed in
    `joining_steps`, which had `joining_rows` of prompts and answers.
    """

    num_answers: int
    num_words: int
    step_s: float | None
    ttft_s: float
    input_tokens: int
    mean_context: float
    joining_s: float = 0.0
    joining_steps: int = 0
    joining_rows: int = 0


async def measure_steps(
    backend: Backend,
    known: Sequence[StepRun] = (),
    on_run: Callable[[StepRun], None] = lambda run: None,
    rest_s: float = REST_S,
) -> StepTimes:
    """Run short answers together, and prompts of two lengths alone, each after a rest.

    Goes on after those of the RUNS that are known. Raises: BackendError for a backend that does not
    stream.
    """
    asked = tuple((run.num_answers, run.num_words) for run in known)
    runs = list(known) if asked == RUNS[: len(asked)] else []
    if len(runs) < len(RUNS):
        await timed_answer(backend, words_to_say(PROMPT_WORDS[0]))
    for size, num_words in RUNS[len(runs) :]:
        if len(runs) >= len(BATCH_SIZES):
            await asyncio.sleep(rest_s)
        # Where fewer did not run together, more do not.
        is_apart = size > 1 and any(run.step_s is None for run in runs)
        run = StepRun(size, num_words, None, 0.0, 0, 0.0)
        runs.append(run if is_apart else await _run(backend, size, num_words))
        on_run(runs[-1])
    return _read_runs(runs)


async def _run(backend: Backend, size: int, num_words: int) -> StepRun:
    answers = await timed_answers(backend, size, num_words)
    step_s: float | None = None
    try:
        step_s = shared_step_s(answers)
    except NotTogether:
        if size == 1:
            raise
    first = answers[0]
    seen = (step_s, first.ttft_s, first.input_tokens, first.mean_context)
    return StepRun(size, num_words, *seen, *joining(answers))


def joining(answers: Sequence[TimedAnswer]) -> tuple[float, int, int]:
    """Seconds, steps and rows from the first token of all to the first one of the last answer."""
    firsts = [answer.marks[0][0] for answer in answers]
    begin_s, end_s = min(firsts), max(firsts)
    gained = [max((n for at_s, n in each.marks if at_s <= end_s), default=0) for each in answers]
    num_prompt = sum(each.input_tokens for each in answers if each.marks[0][0] > begin_s)
    rows = num_prompt + sum(gained) - len(answers)
    return end_s - begin_s, max(gained) - 1, rows


def _read_runs(runs: Sequence[StepRun]) -> StepTimes:
    """Of all RUNS. Middles, because a neighbour on the machine is met now and then."""
    batches = [run for run in runs[: len(BATCH_SIZES)] if run.step_s is not None]
    prompts = runs[len(BATCH_SIZES) :]
    short, long = ([run for run in prompts if run.num_words == words] for words in PROMPT_WORDS)
    prompt_token_s, prompt_base_s = _line(short, long)
    joining_rows = sum(run.joining_rows for run in batches)
    mixed_s = sum(run.joining_s - run.joining_steps * prompt_base_s for run in batches)
    base, far = short[0].mean_context, long[0].mean_context
    alone = [run.step_s or 0.0 for run in (batches[0], *short)]
    # What is not more than their own spread is none.
    gained_s = min(run.step_s or 0.0 for run in long) - max(alone)
    return StepTimes(
        tuple(run.num_answers for run in batches),
        (float(np.median(alone)), *(run.step_s or 0.0 for run in batches[1:])),
        prompt_token_s,
        prompt_base_s,
        max(0.0, gained_s / max(1.0, far - base)),
        base,
        max(0.0, mixed_s / joining_rows) if joining_rows else None,
    )


def shared_step_s(answers: Sequence[TimedAnswer]) -> float:
    """Seconds of a step in which all of them gained a token: not while one still waited.

    Answers that are sent together do not begin together: their prompts take turns.
    Raises: NotTogether.
    """
    begin_s = max(answer.marks[0][0] for answer in answers)
    end_s = min(answer.marks[-1][0] for answer in answers)
    paces = []
    for answer in answers:
        within = [mark for mark in answer.marks if begin_s <= mark[0] <= end_s]
        if len(within) > 1 and within[-1][1] > within[0][1]:
            paces.append((within[-1][0] - within[0][0]) / (within[-1][1] - within[0][1]))
    if not paces:
        raise NotTogether("The answers did not run at the same time, so no step can be timed.")
    return float(np.median(paces))


async def timed_answers(
    backend: Backend, size: int, num_words: int, num_tokens: int = ANSWER_TOKENS
) -> list[TimedAnswer]:
    """So many at once."""
    text = words_to_say(num_words)
    asked = (timed_answer(backend, text, num_tokens) for _ in range(size))
    return list(await asyncio.gather(*asked))


def words_to_say(count: int) -> str:
    """A prompt of about so many words, a token each."""
    return (_WORD * (count // 5 + 1)).strip()


async def timed_answer(backend: Backend, text: str, num_tokens: int = ANSWER_TOKENS) -> TimedAnswer:
    """One answer of a set length. No prompt begins as another: some servers know no salt."""
    name, info = uuid.uuid4().hex, backend.models()[0]
    said = f"{name[:8]} {text}"
    request = GenerateRequest(
        request_id=f"steps-{name[:12]}",
        model=info.name,
        messages=(Message("user", said),) if info.has_chat_template else None,
        prompt=None if info.has_chat_template else said,
        add_special_tokens=False,
        cache_salt=name,
        sampling=SamplingParams(temperature=0.0, max_tokens=num_tokens, ignore_eos=True),
    )
    begin_s = time.perf_counter()
    marks: list[tuple[float, int]] = []
    input_tokens = 0
    async for output in await backend.generate(request):
        input_tokens = output.usage.input_tokens or input_tokens
        if any(delta.text or delta.token_ids for delta in output.deltas):
            last = marks[-1][1] if marks else 0
            # Servers elsewhere count at the end alone; an event is a token there.
            marks.append((time.perf_counter(), max(last + 1, output.usage.output_tokens)))
    if len(marks) < 2:
        raise BackendError("The answer did not come token by token, so no step can be timed.")
    return TimedAnswer(begin_s, input_tokens, tuple(marks))


def _line(short: Sequence[StepRun], long: Sequence[StepRun]) -> tuple[float, float]:
    """Seconds a prompt token, and seconds of a step whatever is in it."""
    few, many = (float(np.median([run.input_tokens for run in runs])) for runs in (short, long))
    a_s, b_s = (float(np.median([run.ttft_s for run in runs])) for runs in (short, long))
    slope = max(1e-9, (b_s - a_s) / max(1.0, many - few))
    return slope, max(0.0, a_s - slope * few)
