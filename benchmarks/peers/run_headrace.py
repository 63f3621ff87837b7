"""headrace behind the runner protocol: the engine in this process, token ids in, deltas out."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import time
from dataclasses import asdict
from typing import Any

from protocol import Answer, serve_runs

from headrace.config.resolve import resolve_config
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.launch.backends import open_engine


class Engine:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        flags = {
            "engine.max_model_len": options["max_model_len"],
            "engine.num_threads": options["num_threads"],
        }
        self._engine = open_engine(model, resolve_config(flags, os.environ))
        self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(self._engine.start())
        self._num_runs = 0
        self.facts = {
            "version": importlib.metadata.version("headrace"),
            **self._engine.environment,
            "work": asdict(self._engine.work),
        }

    def run(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        self._num_runs += 1
        return self._loop.run_until_complete(self._run_all(prompts, output_tokens))

    async def _run_all(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        sampling = SamplingParams(temperature=0.0, max_tokens=output_tokens, ignore_eos=True)
        started = time.perf_counter()
        requests = [
            GenerateRequest(
                request_id=f"{self._num_runs}-{index}",
                model=self._engine.model_info.name,
                prompt=tuple(prompt),
                sampling=sampling,
            )
            for index, prompt in enumerate(prompts)
        ]
        return list(await asyncio.gather(*(self._run(each, started) for each in requests)))

    async def _run(self, request: GenerateRequest, started: float) -> Answer:
        answer = Answer()
        num_tokens = 0
        async for output in await self._engine.generate(request):
            num_tokens += sum(len(delta.token_ids) for delta in output.deltas)
            answer.note(time.perf_counter() - started, num_tokens)
        return answer


if __name__ == "__main__":
    serve_runs(Engine)
