"""Which draft model the settings ask for, and where one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.random_model import write_random_model
from headrace.core.config import Config, EngineConfig, HubConfig
from headrace.core.errors import ConfigError, ModelNotFound
from headrace.hub.model_store import ModelStore
from headrace.launch.draft_choice import find_draft, refuse_draft, refuse_ranks


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(HubConfig(home=tmp_path / "home", offline=True))


@pytest.mark.parametrize(
    ("speculative", "is_wanted", "looks_up_all"),
    [
        ("auto", True, True),
        ("both", True, True),
        ("draft-model", True, False),
        ("prompt-lookup", False, True),
        ("off", False, False),
    ],
)
def test_what_each_way_of_guessing_takes(
    store: ModelStore, tmp_path: Path, speculative: str, is_wanted: bool, looks_up_all: bool
) -> None:
    draft = write_random_model(tmp_path / "draft", 1)
    engine = EngineConfig(speculative=speculative, draft_model=str(draft))  # type: ignore[arg-type]
    assert find_draft(store, engine) == (draft if is_wanted else None)
    assert engine.looks_up_all == looks_up_all


def test_without_a_draft_model_only_predictions_are_looked_up() -> None:
    assert EngineConfig().wanted_draft_model is None
    assert not EngineConfig().looks_up_all


@pytest.mark.parametrize("speculative", ["draft-model", "both"])
def test_a_draft_model_must_be_named(speculative: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.speculative.*--draft-model"):
        EngineConfig(speculative=speculative)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"engine\.draft_model"):
        EngineConfig(speculative=speculative, draft_model="")  # type: ignore[arg-type]


def test_one_that_is_not_here_says_how_to_get_it(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound, match="headrace pull"):
        find_draft(store, EngineConfig(draft_model="qwen2.5-coder:0.5b"))


def test_an_encoder_guesses_nothing(store: ModelStore, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="a model that generates"):
        find_draft(store, EngineConfig(draft_model=str(tmp_path)))


def test_refused_where_there_is_nothing_to_guess() -> None:
    refuse_draft(Config().engine, "an encoder", "")
    refuse_draft(EngineConfig(draft_model="a", speculative="off"), "an encoder", "")
    with pytest.raises(ConfigError, match=r"none for an encoder\. Why"):
        refuse_draft(EngineConfig(draft_model="a"), "an encoder", "Why.")


def test_what_cannot_be_divided_is_refused() -> None:
    refuse_ranks(Config().engine, "an encoder", "")
    divided = EngineConfig(device="cuda", tensor_parallel_size=2)
    with pytest.raises(ConfigError, match=r"tensor_parallel_size is 2; allowed: 1 for an enc.*Why"):
        refuse_ranks(divided, "an encoder", "Why.")


@pytest.mark.parametrize("more", [{}, {"draft_model": "a", "speculative": "prompt-lookup"}])
def test_rejection_needs_a_draft_model(more: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"engine\.draft_acceptance.*--draft-model"):
        EngineConfig(draft_acceptance="rejection", **more)  # type: ignore[arg-type]
    EngineConfig(draft_acceptance="rejection", draft_model="a")


@pytest.mark.parametrize("speculative", ["auto", "off", "draft-model"])
def test_past_answers_are_for_those_who_look_guesses_up(speculative: str) -> None:
    draft = "a" if speculative == "draft-model" else None
    with pytest.raises(ConfigError, match=r"engine\.lookup_past_tokens.*prompt-lookup"):
        EngineConfig(speculative=speculative, draft_model=draft, lookup_past_tokens=1)  # type: ignore[arg-type]
    EngineConfig(speculative="prompt-lookup", lookup_past_tokens=1)
    EngineConfig(draft_model="a", lookup_past_tokens=1)
