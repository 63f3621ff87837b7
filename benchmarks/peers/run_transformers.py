"""Hugging Face transformers behind the runner protocol: `generate` in bf16, one static batch.

In: a folder with bf16 weights. Prompts of a run have one length, so nothing is padded.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from protocol import Answer, serve_runs
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteria


class Clock(StoppingCriteria):
    """Called after each token of the batch; never stops it."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = answers
        self._num_tokens = 0
        self._started = time.perf_counter()

    def __call__(self, input_ids: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        self._num_tokens += 1
        for answer in self._answers:
            answer.note(time.perf_counter() - self._started, self._num_tokens)
        return torch.zeros(len(self._answers), dtype=torch.bool)


class Engine:
    def __init__(self, model: str, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["num_threads"])
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
        self.facts = {"version": transformers.__version__, "torch": torch.__version__}

    def run(self, prompts: list[list[int]], output_tokens: int) -> list[Answer]:
        answers = [Answer() for _ in prompts]
        config = GenerationConfig(
            do_sample=False, max_new_tokens=output_tokens, eos_token_id=None, pad_token_id=0
        )
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                generation_config=config,
                stopping_criteria=[Clock(answers)],
            )
        return answers


if __name__ == "__main__":
    serve_runs(Engine)
