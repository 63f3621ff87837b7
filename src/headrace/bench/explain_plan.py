"""What `headrace explain` tries: the ways to open a model, the cases of each, and their sweeps.

In: a model, settings, files of the same model in other formats. Out: Variants and Sweeps. The first
variant is the model as the settings have it; each other one changes one thing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from headrace.bench.explain import LONG_WORDS, OWN_WORDS, REPEATS, Case, Opened, Variant
from headrace.bench.roofline import Sweep
from headrace.config.machine import detect_machine
from headrace.core.config import Config
from headrace.core.frozen import frozen
from headrace.launch.backends import open_engine

QUICK_STREAMS, ALL_STREAMS = (1, 4, 16), (1, 2, 4, 8, 16, 32)
# Words of prompts; the longest is left out where a context is too short for it.
QUICK_WORDS, ALL_WORDS = (LONG_WORDS,), (LONG_WORDS, 1600)
_ONE = "1 stream"
_QUICK_TEXTS = {"a text that repeats": REPEATS}
_TEXTS = _QUICK_TEXTS | {"a new text": OWN_WORDS}


@frozen
class ExplainPlan:
    """What is run, and what is read from it."""

    variants: tuple[Variant, ...]
    sweeps: tuple[Sweep, ...]

    @property
    def num_cases(self) -> int:
        return sum(len(variant.cases) for variant in self.variants)


def plan_explain(
    model: str, config: Config, formats: Mapping[str, str], is_quick: bool
) -> ExplainPlan:
    """`formats`: names of other formats, and the path of the model in each."""
    streams = QUICK_STREAMS if is_quick else ALL_STREAMS
    words = QUICK_WORDS if is_quick else ALL_WORDS
    far = [f"1 stream after {count} words" for count in words]
    own = [
        *(Case(name=_streams(count), num_streams=count) for count in streams),
        *(
            Case(name=name, num_words=count, has_prompt=True)
            for name, count in zip(far, words, strict=True)
        ),
    ]
    variants = [_variant("as it is", model, config, {}, own)]
    sweeps = [
        Sweep(
            factor="batch size",
            names=tuple(map(_streams, streams)),
            labels=tuple(map(_streams, streams)),
            is_for_one=False,
        ),
        Sweep(
            factor="context",
            names=(_ONE, *far),
            labels=("a short prompt", *(f"{count} words" for count in words)),
        ),
    ]
    for variant, sweep in (
        *_threads(model, config),
        *_keys_and_values(model, config, far[0]),
        *_guesses(model, config, _QUICK_TEXTS if is_quick else _TEXTS),
    ):
        variants.append(variant)
        if sweep is not None:
            sweeps.append(sweep)
    if formats:
        names = [f"weights in {name}" for name in formats]
        for name, path in zip(names, formats.values(), strict=True):
            variants.append(_variant(name, path, config, {}, [Case(name=name)]))
        labels = ("weights as they are", *names)
        sweeps.append(Sweep(factor="weight format", names=(_ONE, *names), labels=labels))
    return ExplainPlan(tuple(variants), tuple(sweeps))


def _threads(model: str, config: Config) -> list[tuple[Variant, Sweep | None]]:
    """One thread beside as many as there are; nothing where there is one."""
    count = config.engine.num_threads or detect_machine().num_cores
    if count < 2:
        return []
    case = Case(name="1 stream on 1 thread")
    variant = _variant("one thread", model, config, {"num_threads": 1}, [case])
    labels = ("1 thread", f"{count} threads")
    return [(variant, Sweep(factor="threads", names=(case.name, _ONE), labels=labels))]


def _keys_and_values(model: str, config: Config, far: str) -> list[tuple[Variant, Sweep | None]]:
    dtype = "bf16" if config.engine.kv_cache_dtype == "int8" else "int8"
    case = Case(name=f"{far}, kept in {dtype}", num_words=LONG_WORDS)
    variant = _variant(dtype, model, config, {"kv_cache_dtype": dtype}, [case])
    labels = ("as they are", dtype)
    return [(variant, Sweep(factor="keys and values", names=(far, case.name), labels=labels))]


def _guesses(
    model: str, config: Config, texts: Mapping[str, str]
) -> list[tuple[Variant, Sweep | None]]:
    """Without guesses and with, on a text that is known and on one that is not."""
    hows = ["off", "prompt-lookup"] if config.engine.draft_model is None else ["off", "both"]
    names = {(how, kind): f"1 stream of {kind}, guesses {how}" for how in hows for kind in texts}
    sweeps: list[Sweep | None] = [
        Sweep(
            factor=f"guesses, on {kind}",
            names=tuple(names[how, kind] for how in hows),
            labels=tuple(f"guesses {how}" for how in hows),
        )
        for kind in texts
    ]
    variants = [
        _variant(
            f"guesses {how}",
            model,
            config,
            {"speculative": how, "lookup_past_tokens": 0},
            [
                Case(name=names[how, kind], text=text, has_guesses=how != "off")
                for kind, text in texts.items()
            ],
        )
        for how in hows
    ]
    return list(zip_longest(variants, sweeps))


def _streams(count: int) -> str:
    return _ONE if count == 1 else f"{count} streams"


def _variant(
    name: str, model: str, config: Config, changes: Mapping[str, Any], cases: list[Case]
) -> Variant:
    changed = replace(config, engine=replace(config.engine, **changes))
    has_own_roof = "num_threads" in changes
    return Variant(name, lambda: _open(model, changed), tuple(cases), has_own_roof)


@asynccontextmanager
async def _open(model: str, config: Config) -> AsyncIterator[Opened]:
    """Raises: what `open_engine` raises."""
    engine = open_engine(model, config)
    await engine.start()
    try:
        capacity = engine.capacity
        kv_token_bytes = capacity.kv_bytes / capacity.num_kv_tokens
        yield Opened(engine, engine.work, kv_token_bytes, engine.probe_roof)
    finally:
        await engine.stop()
