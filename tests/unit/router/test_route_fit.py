"""A learned choice of tiers: the fit on what can and cannot be told apart, and its file."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from fakes.upstreams import ask
from headrace.core.errors import ConfigError
from headrace.core.routing_config import RoutingConfig, TierBackendConfig, TierConfig
from headrace.core.routing_options import LearnedConfig
from headrace.router.features import read_facts
from headrace.router.logistic import area_interval, area_under_curve, fit
from headrace.router.policy import Policy
from headrace.router.route_features import FEATURES, feature_values
from headrace.router.route_fit import LabelledRow, fit_route_model, read_rows, threshold_for
from headrace.router.route_model import read_route_model

EASY = "Which colour has {0}?"
HARD = "Explain step by step why {0} and {1} differ, and prove it.\nWhat about {0}?\n" * 3


def row(text: str, label: bool) -> LabelledRow:
    return LabelledRow(feature_values(read_facts(ask(text))), label)


def texts(count: int) -> list[tuple[str, bool]]:
    return [((HARD if n % 3 == 0 else EASY).format(n, n * 7), n % 3 == 0) for n in range(count)]


def test_what_can_be_told_apart_is() -> None:
    model = fit_route_model([row(*one) for one in texts(120)], 1 / 3)
    metrics = model.metrics
    assert metrics["auc"] > 0.99
    assert metrics["premium_share"] == pytest.approx(1 / 3, abs=0.01)
    assert metrics["good_enough"] > 0.98
    assert metrics["good_enough_always_cheap"] == pytest.approx(2 / 3, abs=1e-4)
    assert metrics["good_enough_random_same_share"] == pytest.approx(7 / 9, abs=0.01)
    assert model.score(read_facts(ask(HARD.format("rain", "snow")))) > model.threshold
    assert model.score(read_facts(ask(EASY.format("a rose")))) < model.threshold


def test_where_nothing_can_be_told_the_interval_says_so() -> None:
    chance = random.Random(7)
    rows = [row(text, chance.random() < 0.5) for text, _ in texts(150)]
    metrics = fit_route_model(rows, 0.4).metrics
    low, high = metrics["auc_95"]
    assert low < 0.5 < high
    assert metrics["premium_share"] <= 0.4
    # The share that chance would have found too.
    gain = metrics["good_enough"] - metrics["good_enough_random_same_share"]
    assert abs(gain) < 0.1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_the_threshold_keeps_the_share(share: float) -> None:
    scores = [number / 100 for number in range(1, 101)]
    threshold = threshold_for(scores, share)
    assert sum(score > threshold for score in scores) == round(share * 100)
    # Ties stay together below it.
    assert sum(score > threshold_for([0.5] * 10, 0.3) for score in [0.5] * 10) == 0


def test_newtons_method_finds_where_the_gradient_is_zero() -> None:
    chance = random.Random(3)
    rows = [(chance.gauss(0, 1), chance.gauss(0, 1)) for _ in range(400)]
    labels = [chance.random() < 1 / (1 + math.exp(-(0.7 + 1.5 * a - b))) for a, b in rows]
    model = fit(rows, labels, 0.5)
    missing = [label - model.probability(r) for r, label in zip(rows, labels, strict=True)]
    for place, weight in enumerate(model.weights):
        gradient = sum(m * r[place] for m, r in zip(missing, rows, strict=True)) - 0.5 * weight
        assert abs(gradient) < 1e-6
    assert abs(sum(missing)) < 1e-6
    assert model.weights[0] == pytest.approx(1.5, abs=0.4)
    assert model.weights[1] == pytest.approx(-1.0, abs=0.4)
    # Where a line divides them all, the penalty keeps the weights finite.
    divided = fit([(float(number),) for number in range(-10, 11)], [n > 0 for n in range(-10, 11)])
    assert 0 < divided.weights[0] < 100
    with pytest.raises(ValueError, match="both labels"):
        fit([(1.0,)], [True])


def test_the_area_under_the_curve() -> None:
    assert area_under_curve([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == 0.75
    assert area_under_curve([1, 1, 1, 1], [True, False, True, False]) == 0.5
    assert area_under_curve([1, 2], [True, True]) == 0.5
    low, high = area_interval(0.75, 50, 50)
    assert low == pytest.approx(0.654, abs=0.005)
    assert high == pytest.approx(0.846, abs=0.005)


def test_the_file_and_what_is_none(tmp_path: Path) -> None:
    model = fit_route_model([row(*one) for one in texts(60)], 0.3)
    path = tmp_path / "model.json"
    path.write_text(model.to_json())
    read = read_route_model(path, "routing.learned.a.model")
    assert read == model
    tree = json.loads(model.to_json())
    broken: list[Any] = [
        {**tree, "format": "other"},
        {**tree, "version": 2},
        {**tree, "features": []},
        {**tree, "features": [{**tree["features"][0], "name": "exec"}]},
        {**tree, "features": [{**tree["features"][0], "scale": 0}]},
        {**tree, "features": [{**tree["features"][0], "weight": "1"}]},
        {**tree, "threshold": 7},
        {**tree, "bias": float("nan")},
        [],
        5,
        None,
    ]
    for other in broken:
        path.write_text(json.dumps(other))
        with pytest.raises(ConfigError, match=r"routing\.learned\.a\.model"):
            read_route_model(path, "routing.learned.a.model")
    with pytest.raises(ConfigError, match="No such file"):
        read_route_model(tmp_path / "none", "routing.learned.a.model")


def test_records_of_every_kind_become_rows() -> None:
    features = feature_values(read_facts(ask("x?")))
    records: list[dict[str, Any]] = [
        {"needs_premium": True, "prompt": "why?"},
        {"needs_premium": False, "messages": [{"role": "user", "content": "x"}]},
        {"agreement": 0.4, "features": features, "tier": "cheap", "other_tier": "premium"},
        {"agreement": 0.5, "features": features, "tier": "premium", "other_tier": "cheap"},
        {"agreement": None, "features": features},
    ]
    rows = read_rows(records, 0.5, None)
    assert [one.needs_premium for one in rows] == [True, False, True, False]
    assert [len(one.values) for one in rows] == [len(FEATURES)] * 4
    assert len(read_rows(records, 0.5, "cheap")) == 2
    for bad in (
        {"needs_premium": "yes", "prompt": "x"},
        {"needs_premium": True},
        {"needs_premium": True, "messages": ["x"]},
        {"prompt": "x"},
        {"needs_premium": True, "features": {"has_code": 1}},
    ):
        with pytest.raises(ConfigError, match="record 1"):
            read_rows([bad], 0.5, None)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 20 rows, 5 of each kind"):
        fit_route_model([row(*one) for one in texts(12)], 0.3)


def test_a_destination_chooses_by_its_model() -> None:
    model = fit_route_model([row(*one) for one in texts(60)], 1 / 3)
    tiers = tuple(
        TierConfig(name=name, backends=(TierBackendConfig(model=name),))
        for name in ("cheap", "premium")
    )
    learned = LearnedConfig(name="smart", model="m.json", cheap="cheap", premium="premium")
    config = RoutingConfig(tiers=tiers, learned=(learned,), default="smart", tasks={"t": "smart"})
    policy = Policy(config, {"smart": model})
    assert "auto:smart" in policy.model_names()
    assert policy.tiers_of("auto:smart") == ("cheap", "premium")
    hard = policy.decide(ask(HARD.format("rain", "snow"), model="auto"))
    easy = policy.decide(ask(EASY.format("a rose"), model="auto", task="t"))
    assert (hard.tier, easy.tier, easy.task) == ("premium", "cheap", "t")
    assert hard.reason.startswith("default, learned smart: ")
    assert " above " in hard.reason
    assert easy.reason.startswith("task, learned smart: ")
    assert " not above " in easy.reason
    never = LearnedConfig(
        name="smart", model="m.json", cheap="cheap", premium="premium", threshold=1.0
    )
    config = RoutingConfig(tiers=tiers, learned=(never,), default="smart")
    assert Policy(config, {"smart": model}).decide(ask(HARD, model="auto")).tier == "cheap"
