"""vLLM's CPU build behind the runner protocol. Runs in vLLM's own environment.

The engine runs in this process and is stepped by hand, so that nothing stands between its tokens
and the clock. In: a folder with bf16 weights. Prompts are token ids; the prefix cache is off.
"""

from __future__ import annotations

import os
import time
from typing import Any

from protocol import Answer, serve_runs

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import torch
import vllm
from vllm import LLM, SamplingParams


class Engine:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        self._engine = LLM(
            model=model,
            dtype="bfloat16",
            max_model_len=options["max_model_len"],
            max_num_seqs=options["max_num_seqs"],
            max_num_batched_tokens=options["max_num_batched_tokens"],
            enable_prefix_caching=False,
        ).llm_engine
        self.facts = {"version": vllm.__version__, "torch": torch.__version__}

    def run(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        params = SamplingParams(
            temperature=0.0, max_tokens=output_tokens, ignore_eos=True, detokenize=False
        )
        started = time.perf_counter()
        answers = [Answer() for _ in prompts]
        for index, prompt in enumerate(prompts):
            self._engine.add_request(str(index), {"prompt_token_ids": prompt}, params)
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            now_s = time.perf_counter() - started
            for output in outputs:
                answers[int(output.request_id)].note(now_s, len(output.outputs[0].token_ids))
        return answers


if __name__ == "__main__":
    serve_runs(Engine)
