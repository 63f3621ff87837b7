"""A mixed bag of requests: every kind of sampling, prompts from one token to several blocks."""

from __future__ import annotations

from headrace.core.request import SamplingParams
from oracle.engine_driver import Asked
from oracle.tiny_models import token_ids

SAMPLING = (
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=0.0, logprobs=5, prompt_logprobs=3),
    SamplingParams(temperature=0.9, top_p=0.9, top_k=40, logprobs=2),
    SamplingParams(temperature=1.3, min_p=0.02, typical_p=0.95, logprobs=0),
    SamplingParams(
        temperature=0.7,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=0.3,
        logprobs=20,
    ),
    SamplingParams(temperature=1.0, logit_bias={5: 3.0, 6: -100.0}, prompt_logprobs=0),
    SamplingParams(temperature=1.0, allowed_token_ids=list(range(10, 60)), logprobs=1),
)


def requests(count: int = 10) -> list[Asked]:
    """Prompts from 1 token to several blocks, every kind of sampling."""
    return [
        Asked(
            name=f"r{index}",
            prompt=tuple(token_ids(length=1 + (index * 29) % 83, seed=index)),
            sampling=SAMPLING[index % len(SAMPLING)],
            max_tokens=3 + (index * 5) % 11,
            seed=1000 + index,
        )
        for index in range(count)
    ]
