"""Channel and loop without an event loop: order, bounds, ends."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict

import pytest

from fakes.fake_runner import expected_output
from fakes.scheduling import Bench, make_spec
from headrace.core.errors import CapacityError
from headrace.core.step import RequestProgress, StepReport
from headrace.engine.channel import ThreadChannel
from headrace.engine.engine import Engine
from headrace.engine.loop import EngineLoop
from headrace.engine.messages import (
    Abort,
    EngineEnded,
    EngineMessage,
    EngineReply,
    OrderDone,
    ResetPrefixes,
    Stop,
    Submit,
)


def test_a_channel_keeps_order_and_is_bounded() -> None:
    channel: ThreadChannel[int] = ThreadChannel(2)
    channel.send(1)
    channel.send(2)
    with pytest.raises(CapacityError, match="2 messages wait"):
        channel.send(3)
    assert channel.receive(None) == [1, 2]
    assert channel.receive(0.0) == []
    channel.send(4)
    assert len(channel) == 1


def test_a_sender_waits_for_room() -> None:
    channel: ThreadChannel[int] = ThreadChannel(1)
    channel.send(1)
    sender = threading.Thread(target=channel.send, args=(2, None))
    sender.start()
    received: list[int] = []
    while len(received) < 2:
        received += channel.receive(60.0)
    sender.join(60)
    assert received == [1, 2]


def run_loop(bench: Bench, *messages: EngineMessage) -> list[EngineReply]:
    inbox: ThreadChannel[EngineMessage] = ThreadChannel(100)
    outbox: ThreadChannel[EngineReply] = ThreadChannel(1000)
    loop = EngineLoop(Engine(bench.scheduler, bench.runner), inbox, outbox)
    for message in messages:
        inbox.send(message)
    loop.run()
    return outbox.receive(0.0)


def test_the_loop_steps_until_told_to_stop() -> None:
    bench = Bench()
    inbox: ThreadChannel[EngineMessage] = ThreadChannel(100)
    outbox: ThreadChannel[EngineReply] = ThreadChannel(2)
    loop = EngineLoop(Engine(bench.scheduler, bench.runner), inbox, outbox)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    inbox.send(Submit(make_spec("a", (1, 2, 3), 5)))
    token_ids: list[int] = []
    while len(token_ids) < 5:
        for reply in outbox.receive(60.0):
            assert isinstance(reply, StepReport)
            token_ids += [t for progress in reply.progress for t in progress.new_token_ids]
    inbox.send(Stop())
    replies: list[EngineReply] = []
    while not replies or not isinstance(replies[-1], EngineEnded):
        replies += outbox.receive(60.0)
    thread.join(60)
    assert not thread.is_alive()
    assert replies[-1] == EngineEnded(None)


def test_an_order_comes_when_the_step_on_its_way_is_over() -> None:
    """The loop waits for room in the outbox, so the order comes in the middle of the answer."""
    bench = Bench(is_ahead=True)
    inbox: ThreadChannel[EngineMessage] = ThreadChannel(100)
    outbox: ThreadChannel[EngineReply] = ThreadChannel(2)
    thread = threading.Thread(target=EngineLoop(bench.engine, inbox, outbox).run, daemon=True)
    thread.start()
    inbox.send(Submit(make_spec("a", (1, 2, 3), 40)))
    progress: list[RequestProgress] = []
    orders: list[OrderDone] = []
    is_ordered = False
    while not progress or progress[-1].finish_reason is None:
        for reply in outbox.receive(60.0):
            if isinstance(reply, StepReport):
                progress += reply.progress
            else:
                assert isinstance(reply, OrderDone)
                orders.append(reply)
        if progress and not is_ordered:
            inbox.send(ResetPrefixes(7, resets_running=True))
            is_ordered = True
    inbox.send(Stop())
    thread.join(60)
    assert not thread.is_alive()
    assert orders == [OrderDone(7, is_done=True)]
    assert progress[-1].num_preemptions == 1
    token_ids = tuple(token for row in progress for token in row.new_token_ids)
    assert token_ids == expected_output((1, 2, 3), 7, 40, 1000)


def test_a_refused_request_is_reported() -> None:
    bench = Bench(max_model_len=8)
    engine = Engine(bench.scheduler, bench.runner)
    engine.apply(Submit(make_spec("long", tuple(range(8)))))
    assert engine.has_work
    (progress,) = engine.step().progress
    assert (progress.request_id, progress.finish_reason) == ("long", "error")
    assert "maximum context length is 8 tokens" in (progress.error or "")
    assert not engine.has_work


def test_aborts_are_reported_and_the_runner_forgets() -> None:
    bench = Bench()
    engine = Engine(bench.scheduler, bench.runner)
    engine.apply(Submit(make_spec("a", (1, 2))))
    engine.step()
    engine.apply(Abort("a"))
    engine.apply(Abort("a"))
    engine.apply(Abort("never seen"))
    (progress,) = engine.step().progress
    assert progress.finish_reason == "abort"
    assert not bench.runner.known
    assert not engine.has_work


def test_an_error_in_a_step_ends_the_loop_and_is_told() -> None:
    bench = Bench()
    bench.runner.failure = ValueError("bad kernel")
    assert run_loop(bench, Submit(make_spec("a", (1,)))) == [EngineEnded("ValueError: bad kernel")]


def test_messages_are_plain_data() -> None:
    spec = make_spec("a", (1, 2), eos_token_ids=(5,), stop_token_ids=[3], logprobs=2)
    text = json.dumps(asdict(Submit(spec)))
    assert json.loads(text)["spec"]["prompt_token_ids"] == [1, 2]
