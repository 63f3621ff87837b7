"""GuessingRunner: drafts of every length and quality, around any runner.

Guesses come from answers that are known, cut and spoiled at random, so that drafts are accepted
whole, in part and not at all, whatever a model would be guessed to say.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from headrace.core.step import ModelRunnerOutput, SchedulerOutput
from headrace.executor.drafting_runner import Runner


class GuessingRunner:
    """Adds drafts to a runner's results. `answers`: what requests will say, where known."""

    runs_ahead = False

    def __init__(
        self,
        runner: Runner,
        answers: Mapping[str, Sequence[int]],
        vocab_size: int,
        max_tokens: int = 6,
        seed: int = 0,
    ) -> None:
        self._runner = runner
        self._answers = answers
        self._vocab_size = vocab_size
        self._max_tokens = max_tokens
        self._random = random.Random(seed)
        self._num_output: dict[str, int] = {}

    def submit(self, output: SchedulerOutput) -> None:
        for new in output.new_requests:
            self._num_output[new.request_id] = len(new.output_token_ids)
        self._runner.submit(output)

    def collect(self) -> ModelRunnerOutput:
        result = self._runner.collect()
        rows = {}
        for name, row in result.rows.items():
            self._num_output[name] += len(row.token_ids)
            rows[name] = row._replace(draft_token_ids=self._guess(name) if row.token_ids else ())
        return ModelRunnerOutput(result.step_id, rows)

    def _guess(self, name: str) -> tuple[int, ...]:
        start = self._num_output[name]
        length = self._random.randint(0, self._max_tokens)
        guess = list(self._answers.get(name, ())[start : start + length])
        if guess and self._random.random() < 0.5:
            place = self._random.randrange(len(guess))
            guess[place] = (guess[place] + 1) % self._vocab_size
        while len(guess) < length and self._random.random() < 0.3:
            guess.append(self._random.randrange(self._vocab_size))  # beyond what will be said
        return tuple(guess)
