"""A stream that passes another one on, and whoever wants to know when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from headrace.core.output import RequestOutput
from headrace.core.passing_stream import PassingStream
from headrace.core.usage import Usage


class Source:
    """Three outputs; knows how its stream ended."""

    def __init__(self, error: Exception | None = None, waits: bool = False) -> None:
        self.error, self.waits = error, waits
        self.ended_with: BaseException | None = None

    async def outputs(self) -> AsyncGenerator[RequestOutput, None]:
        try:
            for number in range(3):
                yield RequestOutput(f"r{number}", (), Usage(), is_finished=number == 2)
                if self.waits:
                    await asyncio.Event().wait()
                if self.error is not None:
                    raise self.error
        except BaseException as error:
            self.ended_with = error
            raise


class Held(PassingStream):
    num_left = 0

    def _leave(self) -> None:
        self.num_left += 1


async def test_outputs_pass_and_the_end_is_told() -> None:
    async with aclosing(Held(Source().outputs())) as stream:
        names = []
        async for output in stream:
            assert stream.num_left == 0
            names.append(output.request_id)
        assert names == ["r0", "r1", "r2"]
        assert stream.num_left > 0


async def test_an_error_of_the_source_is_the_callers() -> None:
    stream = Held(Source(OSError("gone")).outputs())
    assert (await anext(stream)).request_id == "r0"
    with pytest.raises(OSError, match="gone"):
        await anext(stream)
    assert stream.num_left > 0


async def test_whoever_leaves_closes_the_source() -> None:
    source = Source()
    stream = Held(source.outputs())
    await anext(stream)
    await stream.aclose()
    assert isinstance(source.ended_with, GeneratorExit)
    assert stream.num_left > 0


async def test_one_that_nobody_read_is_left_too() -> None:
    stream = Held(Source().outputs())
    await stream.aclose()
    assert stream.num_left > 0


async def test_a_cancelled_wait_reaches_the_source() -> None:
    source = Source(waits=True)
    stream = Held(source.outputs())
    await anext(stream)
    waiting = asyncio.ensure_future(stream.asend(None))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert isinstance(source.ended_with, asyncio.CancelledError)
    assert stream.num_left > 0


@pytest.mark.parametrize("has_value", [False, True])
async def test_what_is_thrown_in_reaches_the_source(has_value: bool) -> None:
    source, error = Source(), KeyError("a")
    stream = Held(source.outputs())
    await anext(stream)
    with pytest.raises(KeyError):
        await (stream.athrow(KeyError, error) if has_value else stream.athrow(error))
    assert source.ended_with is error
