"""Tiny models on every instruction set, and what each request gets alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from consistency.mixed_requests import requests
from headrace.models.llama import Llama
from headrace.ops.protocol import Ops
from headrace.ops.table import make_ops
from oracle.driver import load_model
from oracle.engine_driver import Answer, EngineDriver, Setting
from oracle.gguf_export import export
from oracle.isas import require_isa
from oracle.tiny_models import build, case, save

ISAS = ("generic", "avx2", "avx512", "avx512bf16", "amx")
ARCHITECTURES = ("qwen2-wide", "gemma3-small")
FORMATS = {
    "token_embd": "q8_0",
    "attn_q": "q5_0",
    "attn_k": "q5_0",
    "attn_v": "q8_0",
    "attn_output": "q4_k",
    "ffn_gate": "q4_k",
    "ffn_up": "q4_k",
    "ffn_down": "q6_k",
    "output.weight": "q6_k",
}
"""As in files quantized to Q4_K_M: a fused matrix may hold several formats."""


def cpu_ops(isa: str, num_threads: int) -> Ops:
    """The C++ kernels of an instruction set; skips what this machine cannot run."""
    require_isa(isa)
    return make_ops("cpu", isa=isa, num_threads=num_threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, int], Llama]:
    """A tiny model on an instruction set with some threads: Qwen quantized, Gemma in bfloat16."""

    @cache
    def make(name: str, isa: str, num_threads: int = 2) -> Llama:
        ops = cpu_ops(isa, num_threads)
        folder = tmp_path_factory.mktemp(name)
        if name == "qwen2-wide":
            return load_model(export(build(case(name)), folder / "model.gguf", FORMATS), ops)
        model = build(case(name), torch.bfloat16)
        return load_model(save(model, folder, torch.bfloat16), ops)

    return make


@pytest.fixture(scope="session", params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, isa: str, tiny: Callable[..., Llama]) -> Llama:
    return tiny(request.param, isa, 2)


@pytest.fixture(scope="session", params=("bf16", "int8"))
def setting(request: pytest.FixtureRequest) -> Setting:
    """Keys and values stored in every way there is."""
    return Setting(kv_cache_dtype=request.param)


@pytest.fixture(scope="session")
def alone(model: Llama, setting: Setting) -> dict[str, Answer]:
    """What each request gets with an engine to itself, nothing cached and nothing replayed."""
    return answers_alone(model, setting)


@cache
def answers_alone(model: Llama, setting: Setting) -> dict[str, Answer]:
    """Computed once, also for several files of tests."""
    cold = replace(setting, has_prefix_cache=False, is_eager=True)
    answers: dict[str, Answer] = {}
    for asked in requests():
        answers |= EngineDriver(model, cold).generate([asked])
    return answers
