"""DraftModel: a small model that says what a large one is likely to say next.

In: the target's scheduled steps and the tokens that came of them. Out: guesses, each with how sure
the model was. It chooses as the target does, with the request's own parameters and the same noise
at the same place: where the two models' distributions are alike they draw the same token. Or, where
rejection settles them, with noise of its own; then what was drawn at a place, and from what, is
kept until the place is settled. Owns its KV arrays, in the slots that the target's tokens have.
Knows nothing of what a guess costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from headrace.core.errors import InvalidLogits
from headrace.core.step import NewRequest, ScheduledRequest, SchedulerOutput
from headrace.executor.draft_slots import DraftSlots
from headrace.executor.input_batch import flatten
from headrace.models.llama import Hidden, Llama
from headrace.ops.protocol import Array, KVCache, Ops
from headrace.ops.reference.sampling import GREEDY_TEMPERATURE
from headrace.ops.step_inputs import SampleInputs, StepInputs
from headrace.sampling.rejection import DrawnGuess, distribution, guess_seed
from headrace.sampling.sample_rows import SampleGatherer, SampleRow, make_row

SHARPNESS = 1.4
"""A small model is less sure than a large one. Of 728 tokens at temperature 0.7, qwen2.5-coder 0.5B
guessed 76.1 % of the 1.5B's with the same temperature, 77.9 % with this."""
REJECTION_SHARPNESS = 1.0
"""Of guesses that rejection settles, which wants the distributions alike, not their best tokens."""


class Guess(NamedTuple):
    """A token, and the probability that the draft model gave it."""

    token_id: int
    probability: float


@dataclass(slots=True)
class DraftSequence:
    """One request's text.

    token_ids | chosen ............... | guesses ... |
    in cache  |----------------- num_in_cache           the rest is computed before the next guess
    drawn                        |.............         first for the place after the chosen ones

    `drawn` are guesses for rejection to settle, also when they were made for a step that is over.
    """

    row: SampleRow
    token_ids: list[int]
    guesses: list[int] = field(default_factory=list)
    drawn: list[DrawnGuess] = field(default_factory=list)
    num_in_cache: int = 0

    @property
    def num_behind(self) -> int:
        return len(self.token_ids) + len(self.guesses) - self.num_in_cache

    def look_again(self) -> None:
        """Have the newest token computed, once more if need be: the guess comes of its logits.

        Guesses that came true are in the cache, also when the target was not asked for them.
        Mutates: self.
        """
        self.num_in_cache = min(self.num_in_cache, len(self.token_ids) - 1)

    def settle_drawn(self, token_ids: Sequence[int]) -> None:
        """Keep what was drawn after these tokens, if they are those that were drawn before it.

        Mutates: self.
        """
        is_right = [guess.token_id for guess in self.drawn[: len(token_ids)]] == list(token_ids)
        self.drawn = self.drawn[len(token_ids) :] if is_right else []


class DraftModel:
    """Requests as the target's steps go on, and guesses for some of them."""

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        ops: Ops,
        vocab_size: int,
        is_eager: bool = False,
        sharpness: float = SHARPNESS,
        is_rejecting: bool = False,
    ) -> None:
        """`vocab_size` is the target's. `cache` has as many blocks as the target's.

        `sharpness` divides temperatures. `is_rejecting`: guesses for requests that need not be
        repeatable are settled by rejection, and drawn at their own sharpness.
        """
        self._model, self._cache, self._ops = model, cache, ops
        self._vocab_size = vocab_size
        self._sharpness, self._is_rejecting = sharpness, is_rejecting
        self._replay = None if is_eager else ops.record(self._recorded)
        self._slots = DraftSlots(cache.num_blocks, cache.block_size)
        self._sequences: dict[str, DraftSequence] = {}
        self._gatherer = SampleGatherer()

    def follow(self, output: SchedulerOutput) -> None:
        """Take in a step of the target before its result. Mutates: self."""
        for request_id in output.finished_request_ids:
            self._slots.forget(request_id)
            self._sequences.pop(request_id, None)
        for new in output.new_requests:
            if new.pooling is None:
                self._sequences[new.request_id] = self._open(new)
        for row in output.scheduled:
            is_start = self._slots.follow(row)
            sequence = self._sequences.get(row.request_id)
            if sequence is not None and is_start:
                _drop_guesses(sequence, ())
                sequence.num_in_cache = self._slots.num_computed(row.request_id)
                sequence.look_again()

    def take(self, row: ScheduledRequest, token_ids: Sequence[int]) -> None:
        """Take in what a step chose for a request. Mutates: self."""
        num_accepted = max(0, len(token_ids) - 1)
        self._slots.settle(row.request_id, num_accepted if row.is_sampled else 0)
        sequence = self._sequences.get(row.request_id)
        if sequence is None or not token_ids:
            return
        _drop_guesses(sequence, token_ids)
        sequence.settle_drawn(token_ids)
        sequence.token_ids.extend(self._known(token_ids))
        sequence.look_again()
        for token_id in token_ids:
            sequence.row.append(token_id)
        self._slots.fill(row.request_id, sequence.num_in_cache)

    def drawn(self, request_id: str, token_ids: Sequence[int]) -> DrawnGuess | None:
        """See sampling.rejection.DrawnGuesses."""
        sequence = self._sequences.get(request_id)
        place = len(token_ids)
        if sequence is None or place >= len(sequence.drawn):
            return None
        is_right = all(
            guess.token_id == token_id
            for guess, token_id in zip(sequence.drawn, token_ids, strict=False)
        )
        return sequence.drawn[place] if is_right else None

    def num_behind(self, request_id: str) -> int:
        """Tokens of a request to be computed before there is a guess: at least one."""
        return self._sequences[request_id].num_behind

    def num_output_tokens(self, request_id: str) -> int:
        """Tokens of the answer so far, guesses among them; 0 for a request that has none."""
        sequence = self._sequences.get(request_id)
        return 0 if sequence is None else len(sequence.row.output_token_ids)

    def room(self, request_id: str) -> int:
        """Guesses for which a request has slots and positions."""
        sequence = self._sequences[request_id]
        num_slots = min(self._slots.num_slots(request_id), self._model.config.max_model_len)
        return num_slots - len(sequence.token_ids) - len(sequence.guesses) + 1

    def run(self, wanted: Mapping[str, int]) -> dict[str, Guess]:
        """Compute tokens of some requests; guess for those that need no more.

        `wanted`: tokens to compute, at most those that a request is behind. A request for which the
        draft model can choose nothing gets no guess.
        Mutates: self.
        """
        rows = [self._schedule(name, num_tokens) for name, num_tokens in wanted.items()]
        step = flatten(rows, self._cache.block_size)
        hidden = self._forward(step)
        for row in rows:
            sequence = self._sequences[row.request_id]
            sequence.num_in_cache += len(row.token_ids)
            if not sequence.guesses:
                self._slots.fill(row.request_id, sequence.num_in_cache)
        names = [row.request_id for row in rows if row.is_sampled]
        if not names:
            return {}
        logits = self._model.logits(hidden, np.arange(len(names), dtype=np.int32))  # [S, V]
        guesses = self._choose(logits, names)
        for name, guess in guesses.items():
            sequence = self._sequences[name]
            sequence.guesses.append(guess.token_id)
            sequence.row.append(guess.token_id)
        return guesses

    def _open(self, new: NewRequest) -> DraftSequence:
        row = make_row(new, self._vocab_size)
        token_ids = [*new.prompt_token_ids, *new.output_token_ids]
        return DraftSequence(row, list(self._known(token_ids)))

    def _known(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Tokens that the draft model can read: a target's table may have more, unused rows."""
        last = self._model.config.vocab_size - 1
        if last >= self._vocab_size - 1:
            return token_ids
        return [min(token_id, last) for token_id in token_ids]

    def _schedule(self, name: str, num_tokens: int) -> ScheduledRequest:
        sequence = self._sequences[name]
        start = sequence.num_in_cache
        num_chosen = len(sequence.token_ids)
        token_ids = sequence.token_ids[start : start + num_tokens]
        if start + num_tokens > num_chosen:
            token_ids = token_ids + sequence.guesses[max(0, start - num_chosen) :]
        is_sampled = num_tokens == sequence.num_behind
        block_ids = self._slots.block_ids(name)
        return ScheduledRequest(name, token_ids, start, block_ids, int(is_sampled), is_sampled)

    def _forward(self, step: StepInputs) -> Hidden:
        if self._replay is None:
            return self._model.forward(step, self._cache)
        return Hidden(*self._replay(step))

    def _recorded(self, ops: Ops, step: StepInputs) -> Sequence[Array]:
        hidden = self._model.over(ops).forward(step, self._cache)
        return hidden.h, hidden.add

    def _choose(self, logits: Array, names: Sequence[str]) -> dict[str, Guess]:
        """Sample as the target does, or for rejection. Mutates: logits, sequences."""
        sequences = [self._sequences[name] for name in names]
        rows = [sequence.row for sequence in sequences]
        positions = [len(each.token_ids) + len(each.guesses) for each in sequences]
        if logits.shape[1] < self._vocab_size and not all(_is_plain(row) for row in rows):
            logits = _widen(logits, self._vocab_size)
        inputs = self._gatherer.gather(rows, positions, self._vocab_size)
        inputs = self._guessing(inputs, sequences)
        self._ops.adjust_logits(logits, inputs)
        try:
            chosen = self._ops.sample(logits, inputs)
            for s, sequence in enumerate(sequences):
                if self._is_drawn_for(sequence):
                    chosen[s] = _draw(sequence, int(chosen[s]), logits, inputs, s)
            logprobs = self._ops.logprobs(logits, chosen, 0).logprobs
        except InvalidLogits as error:
            good = [row for row in range(len(names)) if row not in error.rows]
            if not good:
                return {}
            left = self._ops.take_rows(logits, np.array(good, dtype=np.int32))
            return self._choose(left, [names[row] for row in good])
        probabilities = np.exp(logprobs).tolist()
        return {
            name: Guess(token_id, probability)
            for name, token_id, probability in zip(
                names, chosen.tolist(), probabilities, strict=True
            )
        }

    def _is_drawn_for(self, sequence: DraftSequence) -> bool:
        """Whether rejection settles its guesses. At next to no temperature nothing is drawn."""
        is_greedy = sequence.row.values["temperature"] < GREEDY_TEMPERATURE
        return self._is_rejecting and not is_greedy and not sequence.row.sampling.is_repeatable

    def _guessing(self, inputs: SampleInputs, sequences: Sequence[DraftSequence]) -> SampleInputs:
        """The target's parameters and noise, sharper; other noise for what rejection settles."""
        sharpness = np.full(len(sequences), self._sharpness, dtype=np.float32)
        seeds = inputs.seeds.copy()
        for s, sequence in enumerate(sequences):
            if self._is_drawn_for(sequence):
                sharpness[s] = REJECTION_SHARPNESS
                seeds[s] = guess_seed(int(seeds[s]), len(sequence.token_ids))
        return replace(inputs, temperature=inputs.temperature / sharpness, seeds=seeds)


def _draw(
    sequence: DraftSequence, token_id: int, logits: Array, inputs: SampleInputs, s: int
) -> int:
    """What is guessed at a place: what was drawn there before, if it was, and else this.

    Mutates: sequence.
    """
    place = len(sequence.guesses)
    if place == len(sequence.drawn):
        sequence.drawn.append(DrawnGuess(token_id, distribution(logits[s], inputs, s)))
    return sequence.drawn[place].token_id


def _drop_guesses(sequence: DraftSequence, token_ids: Sequence[int]) -> None:
    """Forget the guesses, but for what was computed of those that came true. Mutates: sequence."""
    num_right = 0
    for guess, chosen in zip(sequence.guesses, token_ids, strict=False):
        if guess != chosen:
            break
        num_right += 1
    num_known = len(sequence.token_ids) + num_right
    sequence.num_in_cache = min(sequence.num_in_cache, num_known)
    sequence.row.take_back(len(sequence.guesses))
    sequence.guesses.clear()


def _is_plain(row: SampleRow) -> bool:
    """Whether nothing names tokens, which a head of fewer rows may not have."""
    return not (row.has_penalty or row.token_mask is not None or row.bias())


def _widen(logits: Array, vocab_size: int) -> Array:
    """Logits of a whole vocabulary, of which the rest is never chosen. Shapes: -> [S, V]."""
    whole = np.full((len(logits), vocab_size), -np.inf, dtype=np.float32)
    whole[:, : logits.shape[1]] = logits
    return whole
