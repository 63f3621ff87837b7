"""ModelRunner: executes a step and chooses its tokens.

In: SchedulerOutput. Out: ModelRunnerOutput. Owns the sampling rows of running requests and, through
the ops, the KV arrays. Knows nothing of queues, text or stop conditions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headrace.core.errors import InvalidLogits
from headrace.core.frozen import frozen
from headrace.core.step import (
    ModelRunnerOutput,
    NewRequest,
    RowOutput,
    ScheduledRequest,
    SchedulerOutput,
    TokenLogprobs,
)
from headrace.executor.adapter_table import AdapterTable
from headrace.executor.device_choices import DeviceChoices, PendingOutput
from headrace.executor.input_batch import flatten
from headrace.executor.memory import MAX_LOGIT_ROWS
from headrace.executor.pooling_sums import PoolingSums, is_finite
from headrace.models.llama import Hidden, Llama
from headrace.ops.protocol import Array, KVCache, Logprobs, Ops
from headrace.ops.step_inputs import Int32, SampleInputs, StepInputs
from headrace.sampling.logits_rule import LogitsRule, LogitsRules
from headrace.sampling.no_choice import DAMAGED, NoChoice, explain_no_choice
from headrace.sampling.rejection import DrawnGuesses, decide, distribution
from headrace.sampling.sample_rows import SampleGatherer, SampleRow, make_row

NOT_CHOSEN = -1
"""In the place of a token id."""

_NO_NUMBERS = NoChoice(DAMAGED, is_callers_fault=False)
NO_VECTOR = "The model's hidden states are not numbers because its weights are damaged."


@frozen
class LogitRow:
    """A wanted row of logits: whose it is, and the prompt token it predicts, or None to sample.

    `draft_token_id` is what a sampled row has to choose for the request's next row to count.
    """

    request_id: str
    sample_row: SampleRow
    position: int
    prompt_token_id: int | None
    draft_token_id: int | None = None

    @property
    def num_top(self) -> int | None:
        params = self.sample_row.sampling
        return params.logprobs if self.prompt_token_id is None else params.prompt_logprobs


@dataclass(slots=True)
class Gathered:
    """What a step found for one request so far.

    `is_ahead`: its newest token is one that was drafted, so a further row counts; `is_settled`: no
    further row does.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: str | None = None
    is_callers_fault: bool = False
    is_complete: bool = False
    is_settled: bool = False
    is_ahead: bool = False
    vector: tuple[float, ...] | None = None

    def to_output(self) -> RowOutput:
        """The record the scheduler reads; a request that failed gets no token.

        One that failed after a draft was chosen gets that, and fails in the next step.
        """
        if self.error is not None and not self.is_ahead:
            return RowOutput(error=self.error, is_callers_fault=self.is_callers_fault)
        return RowOutput(
            tuple(self.token_ids),
            tuple(self.logprobs),
            tuple(self.prompt_logprobs),
            is_complete=self.is_complete,
            vector=self.vector,
        )


class ModelRunner:
    """Runs a model over its KV cache, one step at a time.

    `submit` starts a step and `collect` returns its result; on CPU the work is done in `submit`.
    The forward pass is recorded once and replayed, where the device can; `is_eager` calls its ops
    one by one, with the same bits. Where the device chooses tokens, `submit` does not wait for a
    step of plain requests.
    """

    def __init__(
        self,
        model: Llama,
        cache: KVCache,
        ops: Ops,
        is_eager: bool = False,
        rules: LogitsRules | None = None,
        adapters: AdapterTable | None = None,
        guesses: DrawnGuesses | None = None,
    ) -> None:
        """`rules` makes the rules of answers that must have a form, `adapters` has those that
        requests name, `guesses` are those that another model drew; without them there are none.
        """
        self.model, self.cache, self.ops = model, cache, ops
        self._replay = None if is_eager else ops.record(self._recorded)
        self._choices: DeviceChoices | None = None
        if not is_eager and guesses is None and (run := ops.record_choices(self._recorded_logits)):
            self._choices = DeviceChoices(run)
        self._rules, self._adapters, self._guesses = rules, adapters, guesses
        self._rows: dict[str, SampleRow] = {}
        self._gatherer = SampleGatherer()
        self._pooling = PoolingSums()
        self._submitted: deque[PendingOutput] = deque()

    @property
    def runs_ahead(self) -> bool:
        """Whether steps of plain requests read what the one before has chosen."""
        return self._choices is not None

    def submit(self, output: SchedulerOutput) -> None:
        """Execute a step. Requests named finished are forgotten first.

        A row from which no token can be chosen ends its own request with an error, no other.
        """
        for request_id in output.finished_request_ids:
            self._rows.pop(request_id, None)
            self._pooling.forget(request_id)
        if output.block_copies:
            self.ops.copy_blocks(self.cache, output.block_copies)
        for new in output.new_requests:
            rule = self._open_rule(new)
            self._rows[new.request_id] = make_row(new, self.model.config.vocab_size, rule)
        if self._choices is not None and self._choices.can_take(output.scheduled, self._rows):
            step = flatten(output.scheduled, self.cache.block_size)
            self._submitted.append(self._choices.submit(output, step, self._rows))
            return
        found = {request.request_id: Gathered() for request in output.scheduled}
        if output.scheduled:
            step = self._flatten(output.scheduled)
            hidden = self._forward(step)
            wanted = self._wanted(output.scheduled)
            chosen = self._pool(hidden, wanted, found)
            for start in range(0, len(chosen), MAX_LOGIT_ROWS):
                part = chosen[start : start + MAX_LOGIT_ROWS]
                logits = self.model.logits(hidden, np.array(part, dtype=np.int32))
                self._choose(logits, [wanted[row] for row in part], found)
        outputs = {request_id: gathered.to_output() for request_id, gathered in found.items()}
        result = ModelRunnerOutput(output.step_id, outputs)
        self._submitted.append(lambda: result)

    def collect(self) -> ModelRunnerOutput:
        """The oldest submitted step's result."""
        return self._submitted.popleft()()

    def _flatten(self, scheduled: Sequence[ScheduledRequest]) -> StepInputs:
        step = flatten(scheduled, self.cache.block_size)
        if self._adapters is None:
            return step
        digests = [self._rows[request.request_id].new.adapter for request in scheduled]
        rows = self._adapters.rows(scheduled, digests, step)
        return replace(step, adapters=rows) if rows else step

    def _forward(self, step: StepInputs) -> Hidden:
        if self._replay is None:
            model = self.model.over(self.ops.adapted(step)) if step.adapters else self.model
            return model.forward(step, self.cache)
        return Hidden(*self._replay(step))

    def _recorded(self, ops: Ops, step: StepInputs) -> Sequence[Array]:
        hidden = self.model.over(ops).forward(step, self.cache)
        return hidden.h, hidden.add

    def _recorded_logits(self, ops: Ops, step: StepInputs) -> Iterator[Array]:
        """The wanted rows' logits, as many at a time as the memory plan has room for."""
        model = self.model.over(ops)
        hidden = model.forward(step, self.cache)
        for start in range(0, len(hidden.h), MAX_LOGIT_ROWS):
            h, add = (part[start : start + MAX_LOGIT_ROWS] for part in (hidden.h, hidden.add))
            yield model.logits(Hidden(h, add), np.arange(len(h), dtype=np.int32))

    def _open_rule(self, new: NewRequest) -> LogitsRule | None:
        form = new.sampling.structured_outputs
        if form is None:
            return None
        if self._rules is None:
            raise RuntimeError("A form was asked for of a runner that has no rules.")
        return self._rules.open(form, new.sampling.ignore_eos, new.output_token_ids)

    def _wanted(self, scheduled: Sequence[ScheduledRequest]) -> list[LogitRow]:
        wanted = []
        for request in scheduled:
            row = self._rows[request.request_id]
            prompt = row.new.prompt_token_ids
            end = request.num_computed_tokens + len(request.token_ids)
            known_end = end - request.num_draft_tokens
            for position in range(end - request.num_logit_rows + 1, known_end + 1):
                is_last = position == known_end and request.is_sampled
                token_id = None if is_last else prompt[position]
                wanted.append(LogitRow(request.request_id, row, position, token_id))
            for position in range(known_end, end):
                draft = request.token_ids[position - request.num_computed_tokens]
                wanted[-1] = replace(wanted[-1], draft_token_id=draft)
                wanted.append(LogitRow(request.request_id, row, position + 1, None))
        return wanted

    def _pool(
        self, hidden: Hidden, wanted: Sequence[LogitRow], found: Mapping[str, Gathered]
    ) -> Sequence[int]:
        """Take the hidden states of pooled requests; the rows that are left want logits.

        Mutates: found.
        """
        pooled = [row for row, wish in enumerate(wanted) if wish.sample_row.new.pooling]
        if not pooled:
            return range(len(wanted))
        states = self.model.states(hidden, np.array(pooled, dtype=np.int32))  # [n, C]
        for row, state in zip(pooled, self.ops.to_host(states), strict=True):
            wish = wanted[row]
            is_last = wish.prompt_token_id is None
            vector = self._pooling.add(wish.sample_row.new, state, wish.position, is_last)
            if vector is not None:
                gathered = found[wish.request_id]
                gathered.vector, gathered.is_complete = vector, True
                gathered.error = None if is_finite(vector) else NO_VECTOR
        left = set(pooled)
        return [row for row in range(len(wanted)) if row not in left]

    def _choose(
        self, logits: Array, wanted: Sequence[LogitRow], found: Mapping[str, Gathered]
    ) -> None:
        """Sample the rows that choose a token, then score those whose log-probabilities are asked.

        A request's rows choose in turn, because each choice says how the next one is made and
        whether it counts. Log-probabilities are those of the model, before penalties, bias and
        temperature.
        Mutates: logits [S, V], found.
        """
        token_ids = np.array(
            [NOT_CHOSEN if row.prompt_token_id is None else row.prompt_token_id for row in wanted],
            dtype=np.int32,
        )
        asked = [index for index, row in enumerate(wanted) if row.num_top is not None]
        raw = logits[asked] if asked else None  # a copy: sampling changes logits in place
        for turn in take_turns(wanted):
            sampled = [index for index in turn if not found[wanted[index].request_id].is_settled]
            if sampled:
                self._sample(logits, sampled, wanted, token_ids, found)
        if raw is not None:
            scored = [place for place, index in enumerate(asked) if token_ids[index] != NOT_CHOSEN]
            rows = [asked[place] for place in scored]
            raw = self.ops.take_rows(raw, np.array(scored, dtype=np.int32))
            self._score(raw, token_ids[rows], [wanted[index] for index in rows], found)

    def _sample(
        self,
        logits: Array,
        sampled: Sequence[int],
        wanted: Sequence[LogitRow],
        token_ids: Int32,
        found: Mapping[str, Gathered],
    ) -> None:
        """Choose a token for the sampled rows. Mutates: logits, token_ids, found, sample rows."""
        rows = [wanted[index] for index in sampled]
        part = self.ops.take_rows(logits, np.array(sampled, dtype=np.int32))
        inputs = self._inputs(rows)
        self.ops.adjust_logits(part, inputs)
        good = list(range(len(rows)))
        try:
            chosen = self.ops.sample(part, inputs)
        except InvalidLogits as error:
            left = self.ops.to_host(self.ops.take_rows(part, np.array(error.rows, dtype=np.int32)))
            pairs = zip(error.rows, left, strict=True)
            reasons = {s: explain_no_choice(rows[s].sample_row, row) for s, row in pairs}
            good = fail_rows(reasons, rows, found)
            if not good:
                return
            part = self.ops.take_rows(part, np.array(good, dtype=np.int32))
            inputs = self._inputs([rows[index] for index in good])
            chosen = self.ops.sample(part, inputs)
        if self._guesses is not None:
            self._settle_guesses(part, inputs, [rows[index] for index in good], found, chosen)
        for index, token_id in zip(good, chosen.tolist(), strict=True):
            token_ids[sampled[index]] = token_id
            rows[index].sample_row.append(token_id)
            gathered = found[rows[index].request_id]
            gathered.token_ids.append(token_id)
            gathered.is_ahead = token_id == rows[index].draft_token_id
            gathered.is_settled = not gathered.is_ahead
        self._follow_rules([rows[index] for index in good], found)

    def _settle_guesses(
        self,
        logits: Array,
        inputs: SampleInputs,
        rows: Sequence[LogitRow],
        found: Mapping[str, Gathered],
        chosen: Int32,
    ) -> None:
        """Where another model has drawn a guess, that or another takes the place of what was drawn
        without it.

        It is asked of every such place, also where the guess was left out of the step: whether a
        guess counts must not depend on what it is.
        Mutates: chosen.
        """
        for s, row in enumerate(rows):
            guess = self._guesses and self._guesses.drawn(
                row.request_id, found[row.request_id].token_ids
            )
            if guess:
                own = distribution(logits[s], inputs, s)
                chosen[s] = decide(own, guess, int(inputs.seeds[s]), row.position)

    def _follow_rules(self, rows: Sequence[LogitRow], found: Mapping[str, Gathered]) -> None:
        """Note the answers that are complete, and begin the masks of the others."""
        going_on = []
        for row in rows:
            rule = row.sample_row.rule
            if rule is not None and rule.is_complete:
                found[row.request_id].is_complete = found[row.request_id].is_settled = True
            elif rule is not None:
                going_on.append(rule)
        if going_on and self._rules is not None:
            self._rules.begin(going_on)

    def _inputs(self, rows: Sequence[LogitRow]) -> SampleInputs:
        vocab_size = self.model.config.vocab_size
        positions = [row.position for row in rows]
        return self._gatherer.gather([row.sample_row for row in rows], positions, vocab_size)

    def _score(
        self, raw: Array, token_ids: Int32, rows: list[LogitRow], found: Mapping[str, Gathered]
    ) -> None:
        """Log-probabilities of chosen tokens and of the prompt's. Mutates: found."""
        if not rows:
            return
        num_top = max(row.num_top or 0 for row in rows)
        try:
            result = self.ops.logprobs(raw, token_ids, num_top)
        except InvalidLogits as error:
            good = fail_rows(dict.fromkeys(error.rows, _NO_NUMBERS), rows, found)
            if not good:
                return
            token_ids, rows = token_ids[good], [rows[index] for index in good]
            kept = self.ops.take_rows(raw, np.array(good, dtype=np.int32))
            result = self.ops.logprobs(kept, token_ids, num_top)
        for place, row in enumerate(rows):
            gathered = found[row.request_id]
            records = gathered.logprobs if row.prompt_token_id is None else gathered.prompt_logprobs
            records.append(to_record(result, place, int(token_ids[place]), row.num_top or 0))


def fail_rows(
    reasons: Mapping[int, NoChoice], rows: Sequence[LogitRow], found: Mapping[str, Gathered]
) -> list[int]:
    """Fail the requests of rows without a choice; the rows that are left. Mutates: found."""
    for index, (reason, is_callers_fault) in reasons.items():
        gathered = found[rows[index].request_id]
        gathered.is_settled = True
        gathered.error, gathered.is_callers_fault = reason, is_callers_fault
    return [index for index in range(len(rows)) if index not in reasons]


def take_turns(wanted: Sequence[LogitRow]) -> list[list[int]]:
    """The sampled rows: the first of each request, then the second of each, and so on."""
    turns: list[list[int]] = []
    num_taken: dict[str, int] = {}
    for index, row in enumerate(wanted):
        if row.prompt_token_id is not None:
            continue
        turn = num_taken.get(row.request_id, 0)
        num_taken[row.request_id] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    return turns


def to_record(result: Logprobs, place: int, token_id: int, num_top: int) -> TokenLogprobs:
    """One row of Logprobs as a record."""
    return TokenLogprobs(
        token_id=token_id,
        logprob=float(result.logprobs[place]),
        rank=int(result.ranks[place]),
        top_token_ids=tuple(result.top_ids[place, :num_top].tolist()),
        top_logprobs=tuple(result.top_logprobs[place, :num_top].tolist()),
    )
