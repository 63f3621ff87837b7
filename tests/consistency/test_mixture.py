"""A mixture of experts: what a token chooses and gets does not depend on who shares its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from consistency.mixed_requests import requests
from headrace.models.llama import Llama
from oracle.engine_driver import Answer, EngineDriver, Setting


def test_alone_in_one_batch_and_in_small_chunks(tiny: Callable[..., Llama], isa: str) -> None:
    model = tiny("qwen2-moe", isa)
    alone: dict[str, Answer] = {}
    cold = Setting(has_prefix_cache=False)
    for asked in requests():
        alone |= EngineDriver(model, cold).generate([asked])
    assert len({tuple(answer.token_ids[:3]) for answer in alone.values()}) > 7
    for setting in (Setting(), replace(cold, max_num_batched_tokens=13, num_blocks=20)):
        assert EngineDriver(model, setting).generate(requests()) == alone
