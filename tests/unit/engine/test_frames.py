"""Messages on a socket: whole, in order, whatever the pieces they arrive in."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from fakes.scheduling import make_spec
from headrace.core.config import EngineConfig
from headrace.core.errors import InvalidGrammar
from headrace.core.request import SamplingParams
from headrace.core.step import (
    NewRequest,
    RequestProgress,
    ScheduledRequest,
    SchedulerOutput,
    StepReport,
    StepStats,
    TokenLogprobs,
)
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.error_record import to_record
from headrace.engine.frames import FrameSocket, encode
from headrace.engine.messages import (
    Abort,
    CheckForm,
    EngineEnded,
    EngineNotStarted,
    EngineReady,
    FormChecked,
    LogLine,
    RankPlanned,
    RankReady,
    RanksAgreed,
    StartEngine,
    StartRank,
    Stop,
    Submit,
)

FORM = StructuredOutputs(json={"type": "object", "properties": {"é": {"type": "string"}}})
SAMPLING = SamplingParams(
    temperature=0.3, logit_bias={5: -100, 7: 0.25}, allowed_token_ids=[1, 2], stop=["x", "\n"],
    seed=-(2**63), logprobs=3, structured_outputs=FORM, bad_words=["no"],
)  # fmt: skip
SPEC = make_spec("chatcmpl-1.0", tuple(range(1000)), sampling=SAMPLING, seed=2**64 - 1)
LOGPROBS = TokenLogprobs(4, -0.1234567890123456, 2, (4, 5), (-0.1, float("-inf")))
REPORT = StepReport(
    7,
    (RequestProgress("é", (1, 2), (LOGPROBS,), finish_reason="stop", scheduled_at_s=0.1),),
    StepStats(num_running=3, step_s=0.25),
    123.456,
)
MESSAGES = (
    StartEngine("/a b", EngineConfig(num_threads=3, max_mixed_prompt_tokens=None), 2**40, "/c", 20),
    Submit(SPEC),
    Abort("chatcmpl-1.0"),
    Stop(),
    CheckForm(3, FORM),
    EngineReady(5, 32, 1024, 2**33, "memory", "bf16", 300, 64, "cpu-avx2"),
    EngineNotStarted(to_record(InvalidGrammar("regex", "it is broken."))),
    REPORT,
    StepReport(8, ()),
    EngineEnded(),
    EngineEnded("ValueError: x"),
    FormChecked(3, None),
    FormChecked(4, to_record(InvalidGrammar("regex", "it is broken."))),
    LogLine("headrace.engine", 40, "a\nb"),
    StartRank("/a b", EngineConfig(device="cuda", tensor_parallel_size=2), 2**40, 1, 40),
    RankPlanned(7),
    RanksAgreed(5, "127.0.0.1:1"),
    RankReady(),
    SchedulerOutput(
        3,
        (ScheduledRequest("a", [1, 2], 5, [3, 4], 2, True, 1),),
        (
            NewRequest(
                "a",
                [1],
                SAMPLING,
                2**64 - 1,
                stop_token_ids=[2],
                bad_words_ids=[[3]],
                output_token_ids=[4],
                predicted_token_ids=[5],
            ),
        ),
        ("b",),
        ((7, 3),),
    ),
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, FrameSocket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, FrameSocket(theirs)


def test_every_message_arrives_as_it_was_sent(ends: tuple[socket.socket, FrameSocket]) -> None:
    ours, theirs = ends
    sender = FrameSocket(ours)
    for message in MESSAGES:
        sender.send(message)
    received: list[object] = []
    while len(received) < len(MESSAGES):
        received += theirs.receive(60.0)
    assert received == list(MESSAGES)
    assert theirs.receive(0.0) == []


def test_pieces_of_any_size(ends: tuple[socket.socket, FrameSocket]) -> None:
    ours, theirs = ends
    stream = b"".join(map(encode, MESSAGES))
    received: list[object] = []
    for start in range(0, len(stream), 3):
        ours.sendall(stream[start : start + 3])
        received += theirs.receive(0.001)
    assert received == list(MESSAGES)


def test_a_sender_waits_for_a_reader_that_is_behind(
    ends: tuple[socket.socket, FrameSocket],
) -> None:
    ours, theirs = ends
    large = [Abort(f"{index}" * 100_000) for index in range(20)]
    sender = threading.Thread(target=lambda: [FrameSocket(ours).send(each) for each in large])
    sender.start()
    received: list[object] = []
    while len(received) < len(large):
        received += theirs.receive(60.0)
    sender.join()
    assert received == large


def test_the_end_comes_after_what_was_sent(ends: tuple[socket.socket, FrameSocket]) -> None:
    ours, theirs = ends
    FrameSocket(ours).send(Stop())
    ours.close()
    assert theirs.receive(60.0) == [Stop()]
    with pytest.raises(EOFError):
        theirs.receive(60.0)
