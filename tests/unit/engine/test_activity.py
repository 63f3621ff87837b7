"""What an engine says it does: from the text threads to the batch."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fakes.running_engine import ask, running_engine
from headrace.core.activity import RequestActivity
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine import activity
from headrace.engine.async_engine import AsyncEngine


async def rows(backend: AsyncEngine) -> dict[str, RequestActivity]:
    (model,) = await backend.activity()
    return {row.call_id: row for row in model.requests}


async def test_an_idle_engine_answers_at_once() -> None:
    async with running_engine() as running:
        (model,) = await running.backend.activity()
        assert (model.model, model.requests, model.is_current) == ("tiny", (), True)
        assert model.health is not None
        assert model.health.status == "ready"


async def test_running_and_waiting_with_their_numbers() -> None:
    sizes = {"num_blocks": 8000, "max_model_len": 20_000}
    async with running_engine(max_num_seqs=1, **sizes) as running:
        first = ask("x" * 10, call_id="first", max_tokens=19_000, ignore_eos=True, tenant="t")
        late = ask("y" * 5, call_id="late", max_tokens=3, priority=2)
        stream = await running.backend.generate(first)
        await anext(stream)
        other = await running.backend.generate(late)
        found = await rows(running.backend)
        while found["late"].waits_for == "step":
            found = await rows(running.backend)
        run, wait = found["first"], found["late"]
        assert (run.phase, run.waits_for, run.tenant) == ("running", None, "t")
        assert (run.num_prompt_tokens, run.max_tokens) == (10, 19_000)
        assert run.num_output_tokens >= 1
        assert run.num_blocks
        assert (wait.phase, wait.waits_for, wait.queue_position) == ("waiting", "seats", 1)
        assert (wait.priority, wait.num_others_ahead, wait.num_blocks) == (2, 0, 0)
        assert wait.predicted_wait_s is not None
        assert [row.call_id for row in (await running.backend.activity())[0].requests] == [
            "first",
            "late",
        ]
        await stream.aclose()
        await other.aclose()
        await running.until_idle()
        assert await rows(running.backend) == {}


async def test_an_engine_in_a_long_step_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "ANSWER_TIMEOUT_S", 0.05)
    async with running_engine() as running:
        running.runner.gate.clear()
        stream = await running.backend.generate(ask(call_id="a"))
        await running.until(lambda: bool(running.runner.steps))
        (model,) = await running.backend.activity()
        assert not model.is_current
        (row,) = model.requests
        assert (row.call_id, row.waits_for, row.num_blocks) == ("a", "engine", None)
        running.runner.gate.set()
        await stream.aclose()
        await running.until_idle()


async def test_a_form_that_is_being_compiled() -> None:
    compiled = threading.Event()

    def check(_form: StructuredOutputs) -> None:
        assert compiled.wait(60)

    async with running_engine(check_form=check) as running:
        form = StructuredOutputs(regex="a+")
        request = ask(call_id="form", structured_outputs=form)
        task = asyncio.create_task(running.backend.generate(request))
        await asyncio.sleep(0)
        row = (await rows(running.backend))["form"]
        assert (row.phase, row.waits_for) == ("preparing", "form")
        compiled.set()
        await (await task).aclose()
        await running.until_idle()
