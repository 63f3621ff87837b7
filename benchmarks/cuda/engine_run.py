"""Requests of token ids through the real scheduler and runner over random weights."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shapes import Shape, make_model

from headrace.core.clock import SystemClock
from headrace.core.config import EngineConfig
from headrace.core.request import SamplingParams
from headrace.engine.engine import make_engine
from headrace.engine.messages import Submit
from headrace.executor.memory import Capacity
from headrace.executor.model_runner import ModelRunner
from headrace.ops.cuda.cuda_ops import CudaOps
from headrace.sched.request_state import RequestSpec


class EngineRun:
    """One engine, kept over several runs."""

    def __init__(self, ops: CudaOps, shape: Shape) -> None:
        model, cache, num_bytes = make_model(ops, shape)
        config = EngineConfig(
            max_num_seqs=256, max_num_batched_tokens=8192, max_mixed_prompt_tokens=None,
            block_size=cache.block_size, enable_prefix_caching=False,
        )  # fmt: skip
        capacity = Capacity(
            num_bytes, cache.num_bytes, 0, 0, cache.num_blocks, cache.block_size,
            model.config.max_model_len,
        )  # fmt: skip
        self._engine = make_engine(config, capacity, ModelRunner(model, cache, ops), SystemClock())
        self._num_runs = 0

    def generate(self, requests: Sequence[tuple[list[int], int]]) -> float:
        """Output tokens per second until all are finished. Raises: RuntimeError for a failure."""
        self._num_runs += 1
        for index, (prompt, num_tokens) in enumerate(requests):
            sampling = SamplingParams(temperature=1.0, ignore_eos=True)
            spec = RequestSpec(
                request_id=f"{self._num_runs}-{index}", prompt_token_ids=tuple(prompt),
                sampling=sampling, seed=index, max_tokens=num_tokens,
            )  # fmt: skip
            self._engine.apply(Submit(spec))
        start, num_output = time.perf_counter(), 0
        while self._engine.has_work:
            for progress in self._engine.step().progress:
                if progress.error is not None:
                    raise RuntimeError(progress.error)
                num_output += len(progress.new_token_ids)
        wanted = sum(num_tokens for _, num_tokens in requests)
        if num_output != wanted:
            raise RuntimeError(f"{num_output} tokens came of {wanted}.")
        return num_output / (time.perf_counter() - start)
