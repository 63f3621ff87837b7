"""A draft model around the runner of an EngineDriver, as the engine joins them.

Time stands still, so that costs stay what is given here and the guesses do not depend on how busy
the machine is: a cheap draft model, for which guesses pay whatever the target takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fakes.fake_clock import FakeClock
from headrace.executor.draft_model import DraftModel
from headrace.executor.drafting_runner import Drafter, DraftingRunner
from headrace.executor.model_guesser import LOOKAHEAD_TOKENS
from headrace.executor.model_runner import ModelRunner
from headrace.models.llama import Llama
from headrace.ops.protocol import KVCacheDtype
from oracle.engine_driver import Answer, Setting

PASS_RATIO = 0.01


def drafted(
    setting: Setting,
    draft: Llama,
    is_for_all: bool = False,
    sharpness: float = 1.0,
    is_rejecting: bool = False,
    pass_ratio: float = PASS_RATIO,
) -> Setting:
    """The setting with a draft model. `pass_ratio`: what a pass is said to cost."""
    wrap = wrapper(draft, setting.kv_cache_dtype, is_for_all, sharpness, is_rejecting, pass_ratio)
    return replace(setting, drafts=wrap, num_lookahead_tokens=LOOKAHEAD_TOKENS)


def wrapper(
    draft: Llama,
    dtype: KVCacheDtype,
    is_for_all: bool,
    sharpness: float,
    is_rejecting: bool,
    pass_ratio: float,
) -> Callable[[ModelRunner], DraftingRunner]:
    """What puts a draft model around a runner."""

    def wrap(runner: ModelRunner) -> DraftingRunner:
        cache = draft.ops.allocate_kv(
            draft.config.attention, runner.cache.num_blocks, runner.cache.block_size, dtype
        )
        vocab_size = runner.model.config.vocab_size
        model = DraftModel(
            draft, cache, draft.ops, vocab_size, sharpness=sharpness, is_rejecting=is_rejecting
        )
        if is_rejecting:
            runner = ModelRunner(runner.model, runner.cache, runner.ops, guesses=model)
        return DraftingRunner(runner, FakeClock(), is_for_all, Drafter(model, pass_ratio))

    return wrap


def num_drafted(answers: dict[str, Answer]) -> tuple[int, int]:
    """Tokens that were drafted, and of them those that were right."""
    tokens = sum(answer.num_draft_tokens for answer in answers.values())
    return tokens, sum(answer.num_accepted_tokens for answer in answers.values())
