"""Requests with adapters: their bits do not depend on who shares their steps, and with what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from consistency.mixed_requests import requests
from headrace.executor.adapter_table import AdapterTable
from headrace.models.llama import Llama
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.tiny_adapters import draw
from oracle.tiny_models import build, case, token_ids

ROOM_BYTES = 2**30
NAMES = ("qwen2-wide", "gemma3-small")
ARCHITECTURES = {"qwen2-wide": "qwen2", "gemma3-small": "gemma3"}


@dataclass(frozen=True)
class Adapted:
    """A model, its adapters by digest, and requests of which most have one."""

    model: Llama
    table: AdapterTable
    digests: tuple[str, ...]

    def driver(self, setting: Setting) -> EngineDriver:
        return EngineDriver(self.model, setting, adapters=self.table)

    def requests(self) -> list[Asked]:
        """Of three one is the base's; the others have adapters of different ranks and targets."""
        choices = ("", *self.digests)
        return [
            replace(asked, adapter=choices[index % len(choices)])
            for index, asked in enumerate(requests())
        ]


@pytest.fixture(scope="module")
def adapted(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Llama]
) -> Callable[[str, str], Adapted]:
    @cache
    def make(name: str, isa: str) -> Adapted:
        model = tiny(name, isa)
        folder = tmp_path_factory.mktemp("adapters")
        source = build(case(name), torch.float32)
        table = AdapterTable(model, model.ops, ARCHITECTURES[name], ROOM_BYTES)
        paths: list[Path] = [
            draw(source, 1).save(folder / "all"),
            draw(source, 2, ("q_proj", "v_proj", "up_proj"), rank=20).save(folder / "some"),
        ]
        return Adapted(model, table, tuple(table.load(path).sha256 for path in paths))

    return make


@pytest.fixture(scope="module", params=NAMES)
def subject(
    request: pytest.FixtureRequest, isa: str, adapted: Callable[[str, str], Adapted]
) -> Adapted:
    return adapted(request.param, isa)


@pytest.fixture(scope="module")
def alone(subject: Adapted) -> dict[str, Answer]:
    """What each request gets with an engine to itself, nothing cached and nothing replayed."""
    cold = Setting(has_prefix_cache=False, is_eager=True)
    answers: dict[str, Answer] = {}
    for asked in subject.requests():
        answers |= subject.driver(cold).generate([asked])
    return answers


@pytest.mark.parametrize("is_eager", [False, True])
@pytest.mark.parametrize("max_num_batched_tokens", [13, 512])
def test_in_any_batch(
    subject: Adapted, alone: dict[str, Answer], max_num_batched_tokens: int, is_eager: bool
) -> None:
    setting = Setting(max_num_batched_tokens=max_num_batched_tokens, is_eager=is_eager)
    arrivals = {asked.name: 2 * index for index, asked in enumerate(subject.requests())}
    assert subject.driver(setting).generate(subject.requests(), arrivals) == alone


def test_the_base_is_as_it_is_without_adapters(subject: Adapted, alone: dict[str, Answer]) -> None:
    asked = [each for each in subject.requests() if not each.adapter]
    answers = EngineDriver(subject.model, Setting()).generate(asked)
    assert answers == {each.name: alone[each.name] for each in asked}


def test_adapters_change_answers(subject: Adapted, alone: dict[str, Answer]) -> None:
    asked = [replace(each, adapter="") for each in subject.requests()]
    plain = EngineDriver(subject.model, Setting()).generate(asked)
    changed = [plain[each.name] != alone[each.name] for each in subject.requests() if each.adapter]
    assert sum(changed) > len(changed) / 2


def test_a_beginning_is_cached_for_its_adapter_alone(subject: Adapted) -> None:
    sampling = requests()[1].sampling
    sampling = replace(sampling, prompt_logprobs=None)
    prompt = tuple(token_ids(100))
    driver = subject.driver(Setting(num_blocks=200))
    cold: dict[str, Answer] = {}
    for number, digest in enumerate(("", *subject.digests)):
        cold |= driver.generate([Asked(f"cold{number}", prompt, sampling, adapter=digest)])
    assert all(answer.num_cached_tokens == 0 for answer in cold.values())
    for number, digest in enumerate(("", *subject.digests)):
        warm = driver.generate([Asked("warm", prompt, sampling, adapter=digest)])["warm"]
        assert warm.num_cached_tokens == 99
        assert warm == cold[f"cold{number}"]
