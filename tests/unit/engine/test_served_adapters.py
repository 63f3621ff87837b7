"""Names of adapters: loading, replacing, unloading, and what another engine process finds."""

from __future__ import annotations

import asyncio

import pytest

from fakes.fake_clock import FakeClock
from headrace.core.backend import ModelInfo
from headrace.core.errors import (
    CapacityError,
    EngineDied,
    InvalidParameter,
    ModelFileError,
    ModelNotFound,
)
from headrace.engine.channel import ThreadChannel
from headrace.engine.error_record import to_record
from headrace.engine.kept_adapters import KeptAdapters
from headrace.engine.messages import (
    AdapterLoaded,
    AdapterUnloaded,
    LoadAdapter,
    UnloadAdapter,
)
from headrace.engine.served_adapters import ServedAdapters

BASE = ModelInfo("base", 100, 0, "base.gguf")


class Engine:
    """Answers loads with the digest that a path has, and unloads at once."""

    def __init__(self) -> None:
        self.sent: list[LoadAdapter | UnloadAdapter] = []
        self.adapters = ServedAdapters(self.send, BASE, FakeClock())
        self.is_silent = False

    def send(self, message: LoadAdapter | UnloadAdapter) -> None:
        self.sent.append(message)
        if self.is_silent:
            return
        if isinstance(message, UnloadAdapter):
            self.adapters.take(AdapterUnloaded(message.sha256))
        elif message.path == "bad":
            error = to_record(ModelFileError("bad is no adapter"))
            self.adapters.take(AdapterLoaded(message.load_id, error=error))
        else:
            self.adapters.take(AdapterLoaded(message.load_id, f"sha of {message.path}", 8, 9))


async def test_an_adapter_is_a_model_of_its_own_until_it_is_unloaded() -> None:
    engine = Engine()
    info = await engine.adapters.load("sql", "/x/sql")
    assert (info.name, info.root, info.parent) == ("sql", "sql", "base")
    assert engine.adapters.infos() == [info]
    assert engine.adapters.sha256("sql") == "sha of /x/sql"
    assert engine.adapters.sha256("base") == ""
    await engine.adapters.unload("sql")
    with pytest.raises(ModelNotFound, match="Known: base"):
        engine.adapters.sha256("sql")
    assert engine.sent[-1] == UnloadAdapter("sha of /x/sql")
    with pytest.raises(ModelNotFound):
        await engine.adapters.unload("sql")


async def test_names_in_use_are_refused_unless_they_are_replaced() -> None:
    engine = Engine()
    await engine.adapters.load("sql", "/1")
    for name in ("base", "sql"):
        with pytest.raises(InvalidParameter, match="a name that is not in use"):
            await engine.adapters.load(name, "/2")
    await engine.adapters.load("sql", "/2", is_replacing=True)
    assert engine.adapters.sha256("sql") == "sha of /2"
    assert engine.sent[-1] == UnloadAdapter("sha of /1")


async def test_one_file_under_two_names_stays_until_both_are_gone() -> None:
    engine = Engine()
    await engine.adapters.load("a", "/1")
    await engine.adapters.load("b", "/1")
    await engine.adapters.unload("a")
    assert not any(isinstance(message, UnloadAdapter) for message in engine.sent)
    await engine.adapters.unload("b")
    assert engine.sent[-1] == UnloadAdapter("sha of /1")


async def test_files_that_are_being_loaded_are_not_let_go() -> None:
    engine = Engine()
    await engine.adapters.load("a", "/1")
    engine.is_silent = True
    loading = asyncio.create_task(engine.adapters.load("b", "/1"))
    while len(engine.sent) < 2:
        await asyncio.sleep(0)
    unloading = asyncio.create_task(engine.adapters.unload("a"))
    await asyncio.sleep(0)  # it has begun, and waits
    assert not unloading.done()
    asked = engine.sent[-1]
    assert isinstance(asked, LoadAdapter)
    engine.adapters.take(AdapterLoaded(asked.load_id, "sha of /1", 8, 9))
    await asyncio.gather(loading, unloading)
    assert engine.adapters.sha256("b") == "sha of /1"
    assert not any(isinstance(message, UnloadAdapter) for message in engine.sent)


async def test_what_cannot_be_loaded_raises_what_the_engine_raised() -> None:
    engine = Engine()
    with pytest.raises(ModelFileError, match="bad is no adapter"):
        await engine.adapters.load("sql", "bad")
    assert engine.adapters.infos() == []
    await engine.adapters.load("sql", "/1")  # the name is free


async def test_who_waits_is_told_when_the_engine_ends() -> None:
    engine = Engine()
    engine.is_silent = True
    waiting = asyncio.create_task(engine.adapters.load("sql", "/1"))
    while not engine.sent:
        await asyncio.sleep(0)
    engine.adapters.end(EngineDied("over"))
    with pytest.raises(EngineDied, match="over"):
        await waiting
    with pytest.raises(EngineDied, match="over"):
        await engine.adapters.load("other", "/1")


async def test_an_adapter_is_gone_with_its_engine() -> None:
    engine = Engine()
    await engine.adapters.load("sql", "/1")
    engine.is_silent = True
    waiting = asyncio.create_task(engine.adapters.unload("sql"))
    while len(engine.sent) < 2:
        await asyncio.sleep(0)
    engine.adapters.end(EngineDied("over"))
    await waiting


async def test_another_engine_process_may_find_other_files() -> None:
    engine = Engine()
    await engine.adapters.load("changed", "/1")
    await engine.adapters.load("gone", "/2")
    first, second = engine.sent
    engine.adapters.take(AdapterLoaded(first.load_id, "other sha"))
    error = to_record(ModelFileError("it is gone"))
    engine.adapters.take(AdapterLoaded(second.load_id, error=error))
    assert [info.name for info in engine.adapters.infos()] == ["changed"]
    assert engine.adapters.sha256("changed") == "other sha"


def test_the_next_process_is_told_what_the_last_one_had() -> None:
    kept = KeptAdapters()
    loaded, pending, leaving = (LoadAdapter(number, f"/{number}") for number in range(3))
    for message in (loaded, pending, leaving):
        kept.send(message)
    kept.take(AdapterLoaded(0, "a"))
    kept.take(AdapterLoaded(2, "c"))
    kept.send(UnloadAdapter("c"))
    assert kept.unloads(()) == [UnloadAdapter("c")]
    assert kept.start_again() == [loaded, pending, leaving]
    # Requests that run with it are on their way: without it they would be refused.
    assert kept.unloads({"c"}) == []
    kept.take(AdapterLoaded(2, "c"))
    assert kept.unloads(()) == [UnloadAdapter("c")]
    assert kept.unloads(()) == []
    kept.take(AdapterUnloaded("c"))
    # An engine ended on it for the second time.
    assert kept.start_again() == [loaded]
    (failed,) = kept.failed()
    assert failed.load_id == 1
    assert failed.error is not None
    assert kept.failed() == []


def test_files_that_changed_before_they_left_leave_too() -> None:
    kept = KeptAdapters()
    kept.send(LoadAdapter(0, "/0"))
    kept.take(AdapterLoaded(0, "old"))
    kept.send(UnloadAdapter("old"))
    kept.start_again()
    kept.take(AdapterLoaded(0, "new"))
    assert kept.unloads(()) == [UnloadAdapter("new"), UnloadAdapter("old")]
    kept.take(AdapterUnloaded("new"))
    kept.take(AdapterUnloaded("old"))
    assert (kept.start_again(), kept.unloads(())) == ([], [])


def test_what_was_replaced_in_place_takes_nothing_of_what_replaced_it_along() -> None:
    """One path, other files: a new process finds them for both loads, and one of these leaves."""
    kept = KeptAdapters()
    for load_id, sha256 in enumerate(("old", "new")):
        kept.send(LoadAdapter(load_id, "/0"))
        kept.take(AdapterLoaded(load_id, sha256))
    kept.send(UnloadAdapter("old"))  # and a request that runs with it keeps it
    kept.start_again()
    kept.take(AdapterLoaded(0, "new"))
    assert kept.unloads(()) == [UnloadAdapter("old")]
    kept.take(AdapterLoaded(1, "new"))
    assert kept.unloads(()) == []
    # The same files under no name any more: now they leave, and nothing is left.
    kept.send(UnloadAdapter("new"))
    assert kept.unloads(()) == [UnloadAdapter("new")]
    kept.take(AdapterUnloaded("new"))
    assert kept.start_again() == []


def test_changed_files_leave_also_where_a_process_ends_before_that_is_known() -> None:
    kept = KeptAdapters()
    for load_id in range(2):
        kept.send(LoadAdapter(load_id, f"/{load_id}"))
        kept.take(AdapterLoaded(load_id, f"sha {load_id}"))
    kept.send(UnloadAdapter("sha 0"))
    kept.start_again()
    kept.take(AdapterLoaded(0, "changed"))
    assert kept.unloads(()) == [UnloadAdapter("sha 0")]
    kept.start_again()
    kept.take(AdapterLoaded(0, "changed"))
    kept.take(AdapterLoaded(1, "sha 1"))
    assert kept.unloads(()) == [UnloadAdapter("changed"), UnloadAdapter("sha 0")]


def test_an_adapter_that_is_loaded_anew_stays() -> None:
    kept = KeptAdapters()
    kept.send(LoadAdapter(0, "/0"))
    assert kept.are_loading
    kept.take(AdapterLoaded(0, "a"))
    assert not kept.are_loading
    kept.send(UnloadAdapter("a"))
    kept.send(LoadAdapter(1, "/0"))
    kept.take(AdapterLoaded(1, "a"))
    assert kept.unloads(()) == []
    kept.start_again()
    assert kept.are_loading


async def test_an_unload_waits_for_the_adapter_also_where_an_engine_reads_it_again() -> None:
    engine = Engine()
    await engine.adapters.load("sql", "/1")
    (asked,) = engine.sent
    assert isinstance(asked, LoadAdapter)
    engine.is_silent = True
    unloading = asyncio.create_task(engine.adapters.unload("sql"))
    while len(engine.sent) < 2:
        await asyncio.sleep(0)
    # Another process has what the last one had, before it is told what is to leave.
    engine.adapters.take(AdapterLoaded(asked.load_id, "sha of /1"))
    await asyncio.sleep(0)
    assert not unloading.done()
    engine.adapters.take(AdapterUnloaded("sha of /1"))
    await unloading


async def test_a_load_that_nobody_waits_for_leaves_nothing_in_the_engine() -> None:
    engine = Engine()
    engine.is_silent = True
    loading = asyncio.create_task(engine.adapters.load("sql", "/1"))
    while not engine.adapters.are_loading:
        await asyncio.sleep(0)
    (asked,) = engine.sent
    assert isinstance(asked, LoadAdapter)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    engine.adapters.take(AdapterLoaded(asked.load_id, "sha of /1"))
    assert engine.sent[-1] == UnloadAdapter("sha of /1")
    assert engine.adapters.infos() == []


async def begun(engine: Engine, name: str, path: str) -> tuple[asyncio.Task[ModelInfo], int]:
    """A load that the engine has not answered, and its id."""
    loading = asyncio.create_task(engine.adapters.load(name, path))
    num_sent = len(engine.sent)
    async with asyncio.timeout(60):
        while len(engine.sent) == num_sent:
            await asyncio.sleep(0)  # the task runs up to its order
    asked = engine.sent[-1]
    assert isinstance(asked, LoadAdapter)
    return loading, asked.load_id


@pytest.mark.parametrize("has_answer", [False, True])
async def test_nothing_is_left_of_a_load_given_up_beside_another(has_answer: bool) -> None:
    """What the other one reads may be the same files; when it is known they are not, they leave."""
    engine = Engine()
    engine.is_silent = True
    given_up, first_id = await begun(engine, "sql", "/1")
    other, other_id = await begun(engine, "docs", "/2")
    reply = AdapterLoaded(first_id, "sha of /1", 8, 9)
    if has_answer:  # and nobody has taken it up yet
        engine.adapters.take(reply)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    if not has_answer:
        engine.adapters.take(reply)
    assert UnloadAdapter("sha of /1") not in engine.sent
    engine.adapters.take(AdapterLoaded(other_id, "sha of /2", 8, 9))
    await other
    assert engine.sent[-1] == UnloadAdapter("sha of /1")
    assert [info.name for info in engine.adapters.infos()] == ["docs"]


async def test_who_stops_waiting_for_an_unload_does_not_stop_it() -> None:
    engine = Engine()
    await engine.adapters.load("sql", "/1")
    engine.is_silent = True
    other, other_id = await begun(engine, "docs", "/2")
    unloading = asyncio.create_task(engine.adapters.unload("sql"))
    await asyncio.sleep(0)  # it has begun, and waits for the load
    unloading.cancel()
    await asyncio.gather(unloading, return_exceptions=True)
    engine.adapters.take(AdapterLoaded(other_id, "sha of /2", 8, 9))
    await other
    assert engine.sent[-1] == UnloadAdapter("sha of /1")


async def test_a_load_that_finds_no_room_is_not_waited_for() -> None:
    inbox: ThreadChannel[LoadAdapter | UnloadAdapter] = ThreadChannel(1)
    adapters = ServedAdapters(inbox.send, BASE, FakeClock())
    first = asyncio.ensure_future(adapters.load("a", "/x/a"))
    await asyncio.sleep(0)
    with pytest.raises(CapacityError, match="1 messages wait"):
        await adapters.load("b", "/x/b")
    (sent,) = inbox.receive(0.0)
    adapters.take(AdapterLoaded(sent.load_id, "sha of a", 8, 9))  # type: ignore[union-attr]
    assert (await first).name == "a"
    assert not adapters.are_loading


def test_one_file_under_two_names_outlives_the_engine_until_both_are_gone() -> None:
    kept = KeptAdapters()
    loads = [LoadAdapter(0, "/0"), LoadAdapter(1, "/0")]
    for load in loads:
        kept.send(load)
        kept.take(AdapterLoaded(load.load_id, "x"))
    # One name goes: nobody is told, and the next engine has the file.
    for _ in range(2):
        assert kept.start_again() == loads
        for load in loads:
            kept.take(AdapterLoaded(load.load_id, "x"))
        assert kept.unloads(()) == []
    # The other one goes too, and the engine before it has let go.
    kept.send(UnloadAdapter("x"))
    kept.start_again()
    for load in loads:
        kept.take(AdapterLoaded(load.load_id, "x"))
    assert kept.unloads({"x"}) == []
    assert kept.unloads(()) == [UnloadAdapter("x")]
    kept.take(AdapterUnloaded("x"))
    assert (kept.start_again(), kept.unloads(()), kept.failed()) == ([], [], [])


def test_a_file_that_leaves_stays_for_a_name_that_comes() -> None:
    kept = KeptAdapters()
    kept.send(LoadAdapter(0, "/0"))
    kept.take(AdapterLoaded(0, "x"))
    kept.send(UnloadAdapter("x"))
    kept.send(LoadAdapter(1, "/0"))
    kept.take(AdapterLoaded(1, "x"))
    assert kept.unloads(()) == []
    assert LoadAdapter(1, "/0") in kept.start_again()
    for load_id in range(2):
        kept.take(AdapterLoaded(load_id, "x"))
    assert kept.unloads(()) == []
    kept.send(UnloadAdapter("x"))
    assert kept.unloads(()) == [UnloadAdapter("x")]
    kept.take(AdapterUnloaded("x"))
    assert kept.start_again() == []
