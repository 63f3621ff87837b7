"""The encoder's engine over a real tiny model: what waits, what is refused, how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from fakes.encoders import encoder_folder, open_backend
from headrace.core.engine_config import EngineConfig
from headrace.core.errors import (
    BackendError,
    CapacityError,
    ConfigError,
    EngineDied,
    InvalidParameter,
    ModelNotFound,
    OutOfMemory,
)
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.embedder import Embedder
from headrace.engine.encoder_model import EncoderModel, load_encoder_model
from headrace.launch.engine_backend import EngineBackend
from headrace.observe.prometheus import PrometheusMetrics
from oracle.tiny_encoders import VOCAB, make_encoder, save, save_sentence_parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


@pytest_asyncio.fixture
async def backend(folder: Path) -> AsyncIterator[EngineBackend]:
    backend = open_backend(folder, max_waiting_requests=3)
    await backend.start()
    yield backend
    await backend.stop()


def ask(prompt: str | tuple[int, ...] = "the cat", **more: object) -> GenerateRequest:
    options: dict[str, object] = {"request_id": "r", "model": "tiny", "pooling": "mean", **more}
    return GenerateRequest(prompt=prompt, **options)  # type: ignore[arg-type]


async def answer(backend: EngineBackend, request: GenerateRequest) -> RequestOutput:
    (output,) = [output async for output in await backend.generate(request)]
    return output


async def test_an_answer(backend: EngineBackend) -> None:
    output = await answer(backend, ask())
    assert output.is_finished and output.deltas == ()
    assert output.vector is not None and len(output.vector) == 64
    assert output.usage.input_tokens == 4 == len(output.prompt_token_ids or ())
    assert output.times is not None and output.times.queue_s >= 0 <= output.times.prefill_s


async def test_many_at_once_are_those_one_by_one(backend: EngineBackend) -> None:
    texts = ["cat", "the moon", "rain " * 9]
    together = await asyncio.gather(*(answer(backend, ask(text)) for text in texts))
    alone = [await answer(backend, ask(text)) for text in texts]
    assert [output.vector for output in together] == [output.vector for output in alone]


async def test_no_more_wait_than_may(backend: EngineBackend) -> None:
    results = await asyncio.gather(
        *(answer(backend, ask()) for _ in range(8)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, CapacityError)]
    assert len(refused) == 5
    assert (await answer(backend, ask())).vector is not None
    assert await backend.drain(0)


async def test_what_is_wrong_is_named_and_takes_no_place(backend: EngineBackend) -> None:
    for _ in range(4):
        with pytest.raises(InvalidParameter, match="token ids of this model"):
            await backend.generate(ask((5, 10**6)))
    with pytest.raises(ModelNotFound):
        await backend.generate(ask(model="other"))
    with pytest.raises(InvalidParameter, match="second one makes a pair"):
        await backend.generate(ask((5, 6), second_text="cat"))
    assert (await answer(backend, ask())).vector is not None


async def test_what_it_does_is_seen(backend: EngineBackend) -> None:
    stream = await backend.generate(ask(request_id="seen", call_id="call", tenant="acme"))
    (model,) = await backend.activity()
    assert model.model == "tiny" and model.health == backend.health()
    for request in model.requests:  # none, where the pass has ended already
        assert (request.request_id, request.call_id, request.tenant) == ("seen", "call", "acme")
    assert len([output async for output in stream]) == 1
    assert (await backend.activity())[0].requests == ()


async def test_the_end(folder: Path) -> None:
    backend = open_backend(folder)
    with pytest.raises(CapacityError, match="not started"):
        await backend.generate(ask())
    await backend.start()
    await backend.stop()
    await backend.stop()
    assert backend.health().status == "dead"
    with pytest.raises(BackendError, match="stopped"):
        await backend.generate(ask())


def test_limits_are_checked_before_loading(folder: Path) -> None:
    with pytest.raises(ConfigError, match="48"):
        open_backend(folder, max_model_len=49)
    with pytest.raises(OutOfMemory):
        open_backend(folder, memory_bytes=64 * 2**20)
    assert open_backend(folder).model_info.max_model_len == 40
    assert open_backend(folder, max_model_len=48).model_info.max_model_len == 48


def test_tokens_that_the_model_lacks_fail_no_other_text(tmp_path: Path) -> None:
    """A tokenizer of another model, or one that grew."""
    folder = encoder_folder(tmp_path)
    path = folder / "tokenizer.json"
    tokenizer = path.read_text()
    other = json.loads(tokenizer)
    other["model"]["vocab"]["b"] = 94
    path.write_text(json.dumps(other))
    with Embedder(folder) as embedder:
        with pytest.raises(InvalidParameter, match="94; allowed: token ids of this model, 0 to 93"):
            embedder.embed(["a", "b"])
        assert len(embedder.embed("a")) == 1
    path.write_text(re.sub(r'"type_id": ?1', '"type_id": 7', tokenizer))
    model = load_encoder_model(folder, EngineConfig(device="cpu"))
    with pytest.raises(InvalidParameter, match="7; allowed: texts whose tokens have types"):
        model.tokenize(["a", ("a", "b")])
    assert len(model.tokenize(["a"])) == 1


def test_what_callers_are_told(folder: Path) -> None:
    info = open_backend(folder).model_info
    assert (info.kind, info.pooling, info.vector_size) == ("embed", "mean", 64)
    assert dict(info.prompts) == {"query": "the query. "} and not info.has_chat_template


async def test_a_paused_encoder_keeps_what_comes_until_it_goes_on(backend: EngineBackend) -> None:
    assert await backend.pause("wait")
    assert backend.health().status == "paused"
    waiting = asyncio.create_task(answer(backend, ask()))
    while not (rows := (await backend.activity())[0].requests):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert [row.waits_for for row in rows] == ["pause"]
    assert await backend.pause("abort")
    with pytest.raises(CapacityError, match="was paused"):
        await waiting
    late = asyncio.create_task(answer(backend, ask("late")))
    await backend.resume()
    assert (await late).vector is not None
    assert await backend.reset_prefix_cache()


async def test_a_paused_encoder_can_be_stopped(backend: EngineBackend) -> None:
    await backend.pause("keep")
    waiting = asyncio.create_task(answer(backend, ask()))
    while not (await backend.activity())[0].requests:
        await asyncio.sleep(0)
    await backend.stop()
    with pytest.raises(BackendError, match="stopped"):
        await waiting


async def test_nothing_moves_in_an_encoder_that_is_stopped(backend: EngineBackend) -> None:
    pausing = backend.pause("wait")
    await backend.stop()
    assert await pausing
    assert await backend.pause("abort")


async def test_stopped_while_texts_are_tokenized(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text is in the tokenizer's thread and one waits for it: both end, with an error."""
    backend = open_backend(folder)
    await backend.start()
    may_go_on = threading.Event()
    tokenize = EncoderModel.tokenize

    def slow(*args: Any, **options: Any) -> Any:
        may_go_on.wait(60)
        return tokenize(*args, **options)

    monkeypatch.setattr(EncoderModel, "tokenize", slow)
    asked = [asyncio.create_task(answer(backend, ask())) for _ in range(2)]
    await asyncio.sleep(0)
    await backend.stop()
    may_go_on.set()
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ends] == [BackendError, EngineDied]


async def test_metrics(folder: Path) -> None:
    metrics = PrometheusMetrics("tiny")
    backend = open_backend(folder, make_sink=lambda _: metrics, max_waiting_requests=1)
    await backend.start()
    try:
        await backend.pause("wait")
        waiting = asyncio.create_task(answer(backend, ask("the cat")))
        async with asyncio.timeout(60):
            while 'num_requests_waiting{engine="0",model_name="tiny"} 1.0' not in text_of(metrics):
                await asyncio.sleep(0.01)
        with pytest.raises(CapacityError):
            await answer(backend, ask())
        await backend.resume()
        await waiting
        await answer(backend, ask((5, 6, 7)))
    finally:
        await backend.stop()
    found = text_of(metrics)
    for name, value in (
        ("vllm:num_requests_running", 0),
        ("vllm:num_requests_waiting", 0),
        ("vllm:prompt_tokens_total", 7),
        ("vllm:e2e_request_latency_seconds_count", 2),
        ("vllm:request_queue_time_seconds_count", 2),
        ("vllm:iteration_tokens_total_sum", 7),
        ("vllm:admission_rejections_total", 1),
    ):
        assert f'{name}{{engine="0",model_name="tiny"}} {value:.1f}\n' in found, name


def text_of(metrics: PrometheusMetrics) -> str:
    return metrics.render().decode()


async def open_requests(backend: EngineBackend, number: int) -> None:
    async with asyncio.timeout(60):
        while len((await backend.activity())[0].requests) != number:
            await asyncio.sleep(0)


@pytest.mark.parametrize("how", ["abort", "leave"])
async def test_who_has_gone_during_a_pause_keeps_no_place(backend: EngineBackend, how: str) -> None:
    await backend.pause("keep")
    gone = [asyncio.create_task(answer(backend, ask())) for _ in range(3)]
    await open_requests(backend, 3)
    if how == "abort":
        await backend.pause("abort")
    else:
        for task in gone:
            task.cancel()
    ends = await asyncio.gather(*gone, return_exceptions=True)
    assert {type(end) for end in ends} <= {CapacityError, asyncio.CancelledError}
    await open_requests(backend, 0)
    late = [asyncio.create_task(answer(backend, ask("late"))) for _ in range(3)]
    await open_requests(backend, 3)
    await backend.resume()
    assert all([(await task).vector is not None for task in late])
    assert await backend.drain(0)


async def test_the_most_urgent_come_first(
    backend: EngineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches after all others; of one rank those that came first."""
    monkeypatch.setattr(
        "headrace.engine.encoder_queue.MAX_PASS_TOKENS", 1
    )  # one text for each pass
    await backend.pause("keep")
    ends: list[str] = []

    async def note(name: str, **more: object) -> None:
        await answer(backend, ask(request_id=name, **more))
        ends.append(name)

    wishes = {
        "batch": {"is_background": True, "priority": -9},
        "plain": {},
        "urgent": {"priority": -1},
    }
    tasks = []
    for number, (name, more) in enumerate(wishes.items(), 1):
        tasks.append(asyncio.create_task(note(name, **more)))
        await open_requests(backend, number)
    await backend.resume()
    await asyncio.gather(*tasks)
    assert ends == ["urgent", "plain", "batch"]


async def note_end(backend: EngineBackend, name: str, ends: list[str]) -> None:
    """Ask for a vector of the tenant that the name begins with. Mutates: ends."""
    await answer(backend, ask(request_id=name, tenant=name[0]))
    ends.append(name)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("fair", "a0 b0 a1 b1 a2 a3"),
        ("fcfs", "a0 a1 a2 a3 b0 b1"),
        ("priority", "a0 a1 a2 a3 b0 b1"),
    ],
)
async def test_a_tenant_with_many_texts_does_not_hold_up_another_one(
    policy: str, expected: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.engine.encoder_queue.MAX_PASS_TOKENS", 1)
    backend = open_backend(folder, max_waiting_requests=100, policy=policy)
    await backend.start()
    await backend.pause("keep")
    ends: list[str] = []
    tasks = []
    for number, name in enumerate(("a0", "a1", "a2", "a3", "b0", "b1"), 1):
        tasks.append(asyncio.create_task(note_end(backend, name, ends)))
        await open_requests(backend, number)
    await backend.resume()
    await asyncio.gather(*tasks)
    await backend.stop()
    assert " ".join(ends) == expected


async def test_what_a_tenant_takes_back_costs_it_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.engine.encoder_queue.MAX_PASS_TOKENS", 1)
    backend = open_backend(folder, max_waiting_requests=100)
    await backend.start()
    await backend.pause("keep")
    ends: list[str] = []
    gone = []
    for number in range(1, 4):
        gone.append(asyncio.create_task(note_end(backend, "a-gone", ends)))
        await open_requests(backend, number)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    await open_requests(backend, 0)
    await backend.resume()
    # Through a whole pass: what was taken back is known to be gone before the others come.
    await answer(backend, ask(tenant="c"))
    await backend.pause("keep")
    tasks = []
    for number, name in enumerate(("b0", "b1", "a0"), 1):
        tasks.append(asyncio.create_task(note_end(backend, name, ends)))
        await open_requests(backend, number)
    await backend.resume()
    await asyncio.gather(*tasks)
    await backend.stop()
    assert ends == ["b0", "a0", "b1"]


async def test_outputs_that_are_no_numbers_are_an_error_of_their_own_request(
    tmp_path: Path,
) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[VOCAB.index("moon")] = float("nan")
    folder = save_sentence_parts(save(encoder, tmp_path))
    backend = open_backend(folder)
    await backend.start()
    try:
        asked = (answer(backend, ask(text)) for text in ("the moon", "the cat"))
        damaged, whole = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        await backend.stop()
    assert isinstance(damaged, BackendError) and "not numbers" in damaged.message
    assert isinstance(whole, RequestOutput) and whole.vector is not None
    with (
        Embedder(folder, num_threads=1, encoder_dtype="f32") as embedder,
        pytest.raises(BackendError, match="not numbers"),
    ):
        embedder.embed(["the cat", "the moon"])


async def test_tokens_are_shown_as_the_model_reads_them(tmp_path: Path) -> None:
    """Lower-cased where its folder says so, also by a tokenizer that does not."""
    folder = encoder_folder(tmp_path)
    (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text().replace('"lowercase": true', '"lowercase": false')
    )
    told = '{"max_seq_length": 40, "do_lower_case": true}'
    (folder / "sentence_bert_config.json").write_text(told)
    backend = open_backend(folder)
    await backend.start()
    try:
        request = ask("The CAT")
        shown = await backend.text("tiny").encode(request)
        assert shown == (await answer(backend, request)).prompt_token_ids
    finally:
        await backend.stop()
