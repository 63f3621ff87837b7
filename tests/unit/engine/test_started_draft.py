"""Which models may draft for which, and what a draft model takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.random_model import write_random_model
from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_engine
from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.engine.started_draft import MIN_HEAD_ROWS, open_draft
from headrace.engine.started_model import start_model
from headrace.weights.weight_reader import open_weights


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("target") / "model", 2)


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    return write_random_model(tmp_path / "draft", 1)


def settings(draft: Path, **changes: object) -> EngineConfig:
    config = EngineConfig(draft_model=str(draft), max_model_len=512, num_threads=1, **changes)  # type: ignore[arg-type]
    return resolve_engine(config, detect_machine())


def rename(folder: Path, token: str, name: str) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[name] = vocabulary.pop(token)
    path.write_text(json.dumps(tokenizer))


def test_a_model_of_the_same_vocabulary(target: Path, draft: Path) -> None:
    with_draft = start_model(target, settings(draft), 2**30, draft_path=draft)
    alone = start_model(target, settings(draft), 2**30)
    assert with_draft.draft is not None
    assert with_draft.draft.cache.num_blocks == with_draft.cache.num_blocks
    assert 0.2 < with_draft.draft.pass_ratio < 1
    one, both = alone.capacity, with_draft.capacity
    assert both.draft_bytes > 0 == one.draft_bytes
    assert both.kv_bytes / both.num_blocks > one.kv_bytes / one.num_blocks
    assert "draft model" in both.describe()
    with_draft.finish_packing()
    alone.finish_packing()


def test_a_draft_larger_than_its_target_is_warned_of(
    target: Path, draft: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start_model(target, settings(draft), 2**30, draft_path=draft).finish_packing()
    assert "draft model" not in caplog.text
    start_model(draft, settings(target), 2**30, draft_path=target).finish_packing()
    assert f"the draft model {target.name} reads" in caplog.text


def test_a_budget_holds_both(target: Path, draft: Path) -> None:
    config = settings(draft, memory_bytes=400 * 2**20)
    started = start_model(target, config, 2**30, draft_path=draft)
    assert started.capacity.total_bytes <= 400 * 2**20
    started.finish_packing()


def test_other_tokens_are_refused_by_name(target: Path, draft: Path) -> None:
    rename(draft, "q", "qq")
    with pytest.raises(ConfigError, match=r"engine\.draft_model.*Token 113 is 'q'.*'qq'"):
        start_model(target, settings(draft), 2**30, draft_path=draft)


def test_half_a_vocabulary_is_refused(target: Path, draft: Path) -> None:
    path = draft / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {text: i for text, i in vocabulary.items() if i < 100}
    tokenizer["added_tokens"] = []
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match="100 tokens"):
        start_model(target, settings(draft), 2**30, draft_path=draft)


def test_not_on_cuda(target: Path, draft: Path) -> None:
    reader = open_weights(target)
    with pytest.raises(ConfigError, match="nothing on the device cuda"):
        open_draft(draft, reader, 288, EngineConfig(draft_model="a", device="cuda"))
    reader.close()


@pytest.mark.parametrize("vocab_size", [288, 280])
def test_it_guesses_what_both_have(target: Path, draft: Path, vocab_size: int) -> None:
    reader = open_weights(target)
    found = open_draft(draft, reader, vocab_size, settings(draft))
    assert found.head_rows == vocab_size < MIN_HEAD_ROWS
    reader.close()
    found.reader.close()
