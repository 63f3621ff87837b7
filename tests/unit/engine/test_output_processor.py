"""Reports to mailboxes, one by one: what is aborted, who is woken, what is kept."""

from __future__ import annotations

import asyncio

import pytest

from fakes.byte_tokenizer import byte_tokenizer
from fakes.running_engine import Recorder, ask
from headrace.core.errors import BackendError, EngineDied
from headrace.core.output import RequestOutput
from headrace.core.step import RequestProgress, StepReport, TokenLogprobs
from headrace.engine.input_processor import InputProcessor
from headrace.engine.open_request import OpenRequest
from headrace.engine.output_processor import OutputProcessor
from headrace.engine.output_stream import Mailbox
from headrace.engine.stats import EngineStats

TOKENIZER = byte_tokenizer()


class Bench:
    """A processor with one open request, and the aborts it sent."""

    def __init__(self, **sampling: object) -> None:
        self.aborted: list[str] = []
        stats = EngineStats(Recorder(), 8, 4)
        self.processor = OutputProcessor(TOKENIZER, stats, self.aborted.append)
        prepared = InputProcessor(TOKENIZER, None, 100).prepare(ask("ab", **sampling))
        self.mailbox = Mailbox(asyncio.get_running_loop())
        self.request: OpenRequest = self.processor.open(prepared, self.mailbox, 0.0)

    async def apply(self, *progress: RequestProgress, ended_at_s: float = 0.0) -> None:
        self.processor.apply(StepReport(1, progress, ended_at_s=ended_at_s))
        await asyncio.sleep(0)  # lets the wake-up run

    def take(self) -> RequestOutput:
        output = self.mailbox.take()
        assert output is not None
        return output


def gained(index: int, text: str, **changes: object) -> RequestProgress:
    return RequestProgress(f"r.{index}", tuple(text.encode()), **changes)  # type: ignore[arg-type]


async def test_a_stop_string_aborts_the_engine_request_once() -> None:
    bench = Bench(stop=["cd"])
    await bench.apply(gained(0, "abc"))
    assert not bench.aborted
    await bench.apply(gained(0, "def"))
    assert bench.aborted == ["r.0"]
    output = bench.take()
    assert (output.deltas[0].text, output.is_finished) == ("ab", True)
    assert bytes(output.deltas[0].token_ids) == b"abcd"
    assert bench.processor.num_unfinished == 1
    await bench.apply(gained(0, "xyz"))
    await bench.apply(RequestProgress("r.0", finish_reason="abort"))
    assert bench.processor.num_unfinished == 0
    assert bench.aborted == ["r.0"]
    assert bench.mailbox.take() is None


async def test_an_answer_that_the_engine_ended_is_not_aborted() -> None:
    bench = Bench(stop=["c"])
    await bench.apply(gained(0, "abc", finish_reason="length"))
    assert bench.take().deltas[0].finish_reason == "stop"
    assert not bench.aborted


async def test_nobody_is_woken_before_the_prompt_is_scored() -> None:
    bench = Bench(n=2, prompt_logprobs=0)
    await bench.apply(gained(1, "x"))
    assert not bench.mailbox.ready.is_set()
    scored = (TokenLogprobs(ord("b"), -0.5, 1),)
    await bench.apply(RequestProgress("r.0", prompt_logprobs=scored), gained(1, "y"))
    assert not bench.mailbox.ready.is_set()
    await bench.apply(gained(0, "z"))
    assert bench.mailbox.ready.is_set()
    output = bench.take()
    assert {delta.index: delta.text for delta in output.deltas} == {0: "z", 1: "xy"}
    assert output.prompt_logprobs is not None
    assert output.prompt_token_ids == tuple(b"ab")
    assert [entry and entry.chosen.token for entry in output.prompt_logprobs] == [None, "b"]


async def test_a_slow_reader_is_told_too_how_the_request_was_resolved() -> None:
    """It comes with the first output, which others may have joined by then."""
    bench = Bench(max_tokens=9)
    await bench.apply(gained(0, "x"))
    await bench.apply(gained(0, "y"))
    output = bench.take()
    assert (output.deltas[0].text, output.is_finished) == ("xy", False)
    assert output.resolved is not None
    assert output.resolved.max_tokens == 9


async def test_a_refused_answer_fails_the_stream_and_its_siblings() -> None:
    bench = Bench(n=2)
    await bench.apply(RequestProgress("r.0", finish_reason="error", error="no room"))
    with pytest.raises(BackendError, match="no room"):
        bench.mailbox.take()
    assert bench.aborted == ["r.1"]
    await bench.apply(gained(1, "x"), RequestProgress("r.1", finish_reason="abort"))
    assert bench.processor.num_unfinished == 0


async def test_one_request_that_cannot_become_text_does_not_harm_others() -> None:
    bench = Bench()
    other = InputProcessor(TOKENIZER, None, 100).prepare(ask("cd", request_id="other"))
    mailbox = Mailbox(asyncio.get_running_loop())
    bench.processor.open(other, mailbox, 0.0)
    await bench.apply(
        RequestProgress("r.0", new_token_ids=(-1,)), RequestProgress("other.0", (ord("x"),))
    )
    with pytest.raises(BackendError, match="token_ids is -1"):
        bench.mailbox.take()
    assert bench.aborted == ["r.0"]
    output = mailbox.take()
    assert output is not None
    assert output.deltas[0].text == "x"


async def test_times_split_at_first_step_and_first_token() -> None:
    bench = Bench()
    times = {"queued_at_s": 1.0, "scheduled_at_s": 3.0, "prefill_compute_s": 2.5}
    await bench.apply(gained(0, "a", **times), ended_at_s=7.0)
    ended = {"finish_reason": "length", "num_preemptions": 2, "decode_compute_s": 1.5}
    await bench.apply(gained(0, "b", **times, **ended), ended_at_s=15.0)
    found = bench.take().times
    assert found is not None
    assert (found.queue_s, found.prefill_s, found.decode_s) == (2.0, 4.0, 8.0)
    assert (found.prefill_compute_s, found.decode_compute_s) == (2.5, 1.5)
    assert found.num_preemptions == 2


async def test_a_dead_engine_fails_everybody_with_what_was_sent() -> None:
    bench = Bench()
    await bench.apply(gained(0, "abc"))
    bench.processor.fail_all(EngineDied("broken", retryable=True))
    assert bench.take().deltas[0].text == "abc"
    with pytest.raises(EngineDied, match="broken") as caught:
        bench.mailbox.take()
    assert (caught.value.tokens_sent, caught.value.retryable) == (3, True)
    assert bench.processor.num_unfinished == 0
