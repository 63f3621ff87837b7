"""Every pair of features on the real engine behind the real routes; see `paired_features`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from consistency.paired_features import (
    ADAPTER,
    BIAS,
    BY_NAME,
    MAX_TOKENS,
    NAMES,
    PAIRS,
    REFUSED,
    TEMPLATE,
    THINK,
    THOUGHT,
    Answer,
    Call,
    Seen,
    page,
    prediction_of,
)
from fakes.random_adapter import write_random_adapter
from fakes.random_model import write_random_model
from fakes.served_app import RunningServer, run_server
from fakes.stored import begin, open_storage, results, wait_for
from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.config import EngineConfig, HubConfig
from headrace.core.output import RequestOutput
from headrace.core.request import GenerateRequest
from headrace.engine.started_model import start_model
from headrace.hub.model_store import ModelStore
from headrace.launch.local_engine import LocalEngine, finish_engine
from headrace.launch.model_builds import ModelBuilds, with_adapter

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "feature-pairs.md"
PROMPT = "Say how wide the river is, and then say which of the two boats is the faster one. " * 2
BLOCK_SIZE = 32
# Requests that come first, and need another block each with their third token.
CROWD, CROWD_PROMPT_TOKENS, CROWD_TOKENS = 4, 190, 24
# Guesses that cost next to nothing are made for every request, however many run.
PASS_RATIO = 0.01
CHAT = "/v1/chat/completions"


class Gate:
    """Passes requests on to an engine, those of a crowd all at once, the most urgent first."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.num_expected = 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[RequestOutput, None]:
        """See core.backend.Backend."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((request.priority, turn))
        if len(self._waiting) == self.num_expected:
            self.num_expected = 1
            crowd, self._waiting = sorted(self._waiting, key=lambda entry: entry[0]), []
            for _, other in crowd:
                other.set_result(None)
        await turn
        return await self._engine.generate(request)


class Machine:
    """Servers of one model, one for each setting of the engine; calls and what they gave."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._home = folder / "home"
        names = (THINK, THOUGHT)
        self.model = write_random_model(folder / "pairs", 2, TEMPLATE, names)
        self.draft = write_random_model(folder / "draft", 1, TEMPLATE, names)
        write_random_adapter(folder / ADAPTER, num_layers=2)
        self._adapters = folder
        self._servers: dict[str, RunningServer] = {}
        self._gates: dict[str, Gate] = {}
        self._seen: dict[frozenset[str], Seen] = {}

    def see(self, *names: str) -> Seen:
        """What a call with these features gives."""
        key = frozenset(names)
        if key not in self._seen:
            call = self._call(key)
            if call.is_crowded:
                # The prompts fit with the block that an admission leaves, and nothing else.
                alone = self.see(*key - {"preemption"})
                num_prompts = len(alone.answers) * -(-alone.prompt_tokens // BLOCK_SIZE)
                crowd = CROWD * -(-CROWD_PROMPT_TOKENS // BLOCK_SIZE)
                call = replace(call, num_blocks=num_prompts + crowd + 1)
            if call.is_predicted:
                told = prediction_of(self.see(*key - {"speculation"}).answers[0].raw)
                call = call.adding(prediction={"type": "content", "content": told})
            self._seen[key] = self._run(call)
        return self._seen[key]

    def see_favouring(self, letter: str, *names: str) -> Seen:
        """The same, where the model takes a letter wherever it may."""
        return self._run(
            self._call(frozenset(names)).adding(logit_bias=BIAS | {str(ord(letter)): 100})
        )

    def refusal(self, *names: str) -> str:
        """What the line of a batch is told."""
        call = self._call(frozenset(names))
        return str(self._batch(self._server(call), call.body)["error"])

    def _call(self, names: frozenset[str]) -> Call:
        body = {
            "messages": [{"role": "user", "content": PROMPT}],
            "max_completion_tokens": MAX_TOKENS,
            "temperature": 0,
            # Without it a random model repeats itself.
            "frequency_penalty": 1.5,
            "seed": 1,
            "logit_bias": BIAS,
            "return_token_ids": True,
            "receipt": True,
            "model": self.model.name,
        }
        call = Call(body).on(enable_prefix_caching=False, speculative="off")
        for name in NAMES:
            if name in names:
                call = BY_NAME[name].add(call)
        return call

    def _run(self, call: Call) -> Seen:
        server = self._server(call)
        if call.is_warm:  # half of what is asked for next
            self._ask(server, {**call.body, "max_completion_tokens": MAX_TOKENS // 2})
        seen = self._once(server, call)
        if "seed" in call.body and call.body["temperature"]:
            seen = replace(seen, again=self._once(server, call).answers)
        return seen

    def _once(self, server: RunningServer, call: Call) -> Seen:
        with ThreadPoolExecutor(CROWD) as pool:
            crowd = []
            if call.is_crowded:
                self._gates[server.address].num_expected = CROWD + 1
                crowd = [
                    pool.submit(self._ask, server, self._filler(number)) for number in range(CROWD)
                ]
            body = dict(call.body) | ({"priority": 5} if call.is_crowded else {})
            if call.is_batch:
                seen = replace(_read(self._batch(server, body)), is_from_batch=True)
            elif body.get("stream"):
                seen = self._stream(server, body)
            else:
                seen = _read(self._ask(server, body))
            for other in crowd:
                other.result()
        return seen

    def _filler(self, number: int) -> dict[str, Any]:
        """A request that comes before others."""
        around = len("user: \nassistant: ") + 1
        return {
            "model": self.model.name,
            "messages": [
                {"role": "user", "content": f"{number}".ljust(CROWD_PROMPT_TOKENS - around, ".")}
            ],
            "max_completion_tokens": CROWD_TOKENS,
            "ignore_eos": True,
            "priority": -5,
            "receipt": True,
            "return_token_ids": True,
        }

    def _ask(self, server: RunningServer, body: dict[str, Any]) -> dict[str, Any]:
        with server.client() as client:
            reply = client.post(CHAT, json={**body, "stream": False, "stream_options": None})
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def _stream(self, server: RunningServer, body: dict[str, Any]) -> Seen:
        """What the chunks add up to, in the form of a whole answer."""
        whole: dict[str, Any] = {}
        choices: dict[int, dict[str, Any]] = {}
        num_chunks = 0
        with server.client() as client, client.stream("POST", CHAT, json=body) as reply:
            assert reply.status_code == 200
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                num_chunks += 1
                whole |= {k: chunk[k] for k in ("usage", "receipt") if chunk.get(k)}
                for choice in chunk["choices"]:
                    _join(choices.setdefault(choice["index"], {"message": {}}), choice)
        whole["choices"] = [choices[index] for index in sorted(choices)]
        return replace(_read(whole), num_chunks=num_chunks)

    def _batch(self, server: RunningServer, body: Any) -> dict[str, Any]:
        client = OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0)
        line = {"custom_id": "a", "method": "POST", "url": CHAT, "body": dict(body)}
        with client:
            batch = wait_for(client, begin(client, [line]).id)
            found = results(client, batch.output_file_id or batch.error_file_id)
        answer: dict[str, Any] = found["a"]["response"]["body"]
        return answer

    def _server(self, call: Call) -> RunningServer:
        settings = {**call.engine, "num_blocks": call.num_blocks}
        key = json.dumps(settings, sort_keys=True)
        if key not in self._servers:
            self._servers[key] = self._serve(**settings)
        return self._servers[key]

    def _serve(
        self,
        num_blocks: int | None,
        draft_model: bool = False,
        adapters: tuple[str, ...] = (),
        **settings: Any,
    ) -> RunningServer:
        draft = self.draft if draft_model else None
        config = resolve_engine(
            EngineConfig(
                policy="priority",
                max_model_len=800,
                # Every prompt of a crowd in one step.
                max_num_batched_tokens=4096,
                max_mixed_prompt_tokens=None,
                num_threads=1,
                draft_model=None if draft is None else str(draft),
                adapters=tuple(f"{name}={self._adapters / name}" for name in adapters),
                **settings,
            ),
            detect_machine(),
        )
        started = start_model(self.model, config, 2**30, draft_path=draft)
        if started.draft is not None:
            started = replace(started, draft=replace(started.draft, pass_ratio=PASS_RATIO))
        if num_blocks is not None:
            started = replace(started, capacity=replace(started.capacity, num_blocks=num_blocks))
        local = ModelStore(HubConfig(home=self._home)).resolve(str(self.model))
        engine = finish_engine(started, local, config, cache_dir=self._home)
        if engine.drafting is not None:
            engine.drafting.hold_costs()
        builds = ModelBuilds(self._home)
        builds.add(local, engine.environment)
        self._stack.callback(builds.close)
        # One server owns the batches of a folder.
        storage = self._stack.enter_context(open_storage(self._home / str(len(self._servers))))
        gate = Gate(engine)
        server = self._stack.enter_context(
            run_server(
                gate,  # type: ignore[arg-type]
                storage=storage,
                build_of=lambda name: with_adapter(builds, engine, name),
            )
        )
        _wait(server, engine.start)
        self._stack.callback(_wait, server, engine.stop)
        self._gates[server.address] = gate
        return server


def _wait(server: RunningServer, work: Callable[[], Any]) -> None:
    asyncio.run_coroutine_threadsafe(work(), server.loop).result(60)


def _join(choice: dict[str, Any], chunk: dict[str, Any]) -> None:
    """Mutates: choice."""
    message, delta = choice["message"], chunk["delta"]
    for name in ("content", "reasoning"):
        if delta.get(name) is not None:
            message[name] = (message.get(name) or "") + delta[name]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if call["index"] == len(calls):
            calls.append({"function": {"name": "", "arguments": ""}})
        function = calls[call["index"]]["function"]
        for name, text in call["function"].items():
            function[name] += text or ""
    choice["token_ids"] = choice.get("token_ids", []) + (chunk.get("token_ids") or [])
    if chunk.get("logprobs"):
        content = choice.setdefault("logprobs", {"content": []})["content"]
        content += chunk["logprobs"]["content"]
    for name in ("finish_reason", "stop_reason"):
        if chunk.get(name) is not None:
            choice[name] = chunk[name]


def _read(body: dict[str, Any]) -> Seen:
    assert "error" not in body, body
    request = body["receipt"]["requests"][0]
    return Seen(
        answers=tuple(_read_answer(choice) for choice in body["choices"]),
        prompt_tokens=body["usage"]["prompt_tokens"],
        cached_tokens=request["cached_tokens"],
        preemptions=request["preemptions"],
        accepted_tokens=request["accepted_draft_tokens"],
        rejected_tokens=request["rejected_draft_tokens"],
        kv_cache_dtype=body["receipt"]["model"]["kv_cache_dtype"],
        adapter_sha256=body["receipt"]["model"]["adapter_sha256"],
    )


def _read_answer(choice: dict[str, Any]) -> Answer:
    message, logprobs = choice["message"], choice.get("logprobs")
    calls = [each["function"] for each in message.get("tool_calls") or ()]
    return Answer(
        text=message.get("content") or None,
        reasoning=message.get("reasoning") or None,
        calls=tuple((each["name"], each["arguments"]) for each in calls),
        token_ids=tuple(choice["token_ids"]),
        logprobs=(
            tuple((each["token"], each["logprob"]) for each in logprobs["content"])
            if logprobs
            else None
        ),
        finish_reason=choice["finish_reason"],
        stop_reason=choice.get("stop_reason"),
    )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(tmp_path_factory.mktemp("pairs"), stack)


@pytest.mark.parametrize("name", NAMES)
def test_alone(machine: Machine, name: str) -> None:
    BY_NAME[name].promise(machine.see(), machine.see(name))


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_both(machine: Machine, one: str, other: str) -> None:
    if frozenset((one, other)) in REFUSED:
        assert "stream" in machine.refusal(one, other)
        return
    together = machine.see(one, other)
    BY_NAME[one].promise(machine.see(other), together)
    BY_NAME[other].promise(machine.see(one), together)


def test_beside_a_form_a_tool_may_be_called_and_need_not(machine: Machine) -> None:
    called = machine.see_favouring("<", "structured output", "tools").answers[0]
    assert [name for name, _ in called.calls] == ["measure"]
    formed = machine.see_favouring("{", "structured output", "tools").answers[0]
    assert not formed.calls
    assert 0 <= json.loads(formed.text or "")["size"] <= 99


def test_the_page_names_every_pair() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
