"""OpenVINO GenAI behind the runner protocol: its continuous batching, stepped by hand.

In: a GGUF file, which it converts when loading, or a folder with its own format. Prompts are token
ids; the prefix cache is off.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
from protocol import Answer, serve_runs


class Engine:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 1
        scheduler.max_num_seqs = options["max_num_seqs"]
        scheduler.max_num_batched_tokens = options["max_num_batched_tokens"]
        scheduler.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": options["num_threads"]}
        self._pipe = genai.ContinuousBatchingPipeline(
            model, scheduler_config=scheduler, device="CPU", properties=properties
        )
        self._next_id = 0
        self.facts = {"version": genai.__version__}

    def run(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        config = genai.GenerationConfig(
            max_new_tokens=output_tokens, do_sample=False, ignore_eos=True
        )
        answers = [Answer() for _ in prompts]
        counts = [0] * len(prompts)
        started = time.perf_counter()
        handles = []
        for prompt in prompts:
            ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
            handles.append(self._pipe.add_request(self._next_id, ids, config))
            self._next_id += 1
        while self._pipe.has_non_finished_requests():
            self._pipe.step()
            now_s = time.perf_counter() - started
            for index, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        counts[index] += len(output.generated_ids)
                answers[index].note(now_s, counts[index])
        return answers


if __name__ == "__main__":
    serve_runs(Engine)
