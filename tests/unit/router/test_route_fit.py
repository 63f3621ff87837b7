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
    # All in order is not certainty: 0.863 ** 25 is 0.025.
    assert area_interval(1.0, 25, 40) == (pytest.approx(0.8628, abs=1e-4), 1.0)
    assert area_interval(0.0, 40, 25) == (0.0, pytest.approx(1 - 0.8628, abs=1e-4))


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


Records = list[tuple[str, dict[str, Any]]]


def located(records: list[dict[str, Any]]) -> Records:
    return [(f"file:{number}", record) for number, record in enumerate(records, 1)]


def test_records_of_every_kind_become_rows() -> None:
    features = feature_values(read_facts(ask("x?")))
    records: list[dict[str, Any]] = [
        {"needs_premium": True, "prompt": "why?"},
        {"needs_premium": False, "messages": [{"role": "user", "content": "x"}]},
        {"agreement": 0.4, "features": features, "tier": "cheap", "other_tier": "premium"},
        {"agreement": 0.5, "features": features, "tier": "premium", "other_tier": "cheap"},
        {"agreement": None, "features": features},
    ]
    rows = read_rows(located(records), 0.5, None)
    assert [one.needs_premium for one in rows] == [True, False, True, False]
    assert [len(one.values) for one in rows] == [len(FEATURES)] * 4
    assert [one.agreement for one in rows] == [None, None, 0.4, 0.5]
    assert len(read_rows(located(records), 0.5, "cheap")) == 2


FEATURED = feature_values(read_facts(ask("x?")))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"needs_premium": "yes", "prompt": "x"}, "needs_premium of file:1 is 'yes'"),
        ({"agreement": "0.5", "prompt": "x"}, "agreement of file:1 is '0.5'"),
        ({"agreement": 1.5, "prompt": "x"}, "agreement of file:1 is 1.5; allowed: a number from 0"),
        ({"agreement": math.nan, "prompt": "x"}, "agreement of file:1 is nan"),
        ({"prompt": "x", "label": 1}, "file:1 is a record with prompt, label; allowed: a record"),
        ({}, "file:1 is a record with nothing; allowed: a record with needs_premium or agree"),
        ({"needs_premium": True}, "allowed: a record with a prompt (a text), messages or features"),
        ({"needs_premium": True, "prompt": [1, 2]}, "allowed: a record with a prompt (a text)"),
        ({"needs_premium": True, "messages": ["x"]}, "messages of file:1 is 'x'"),
        (
            {"needs_premium": True, "messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "allowed: objects with a role and a content, texts",
        ),
        (
            {"needs_premium": True, "features": {**FEATURED, "has_code": None, "num_lines": "1"}},
            "features of file:1 is without a number for has_code, num_lines",
        ),
        ({"needs_premium": True, "features": {**FEATURED, "has_code": math.inf}}, "has_code"),
    ],
)
def test_a_record_that_cannot_be_used_is_named(record: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rows(located([record]), 0.5, None)
    assert said in caught.value.message


@pytest.mark.parametrize(
    ("records", "cheap", "said"),
    [
        ([], None, "FILE is without records; allowed: at least 20 records, 5 of each kind."),
        ([], None, "`routing.shadow` makes them, or label requests: a prompt and needs_premium"),
        (
            [{"agreement": None, "tier": "a", "other_tier": "b"}] * 3,
            None,
            "FILE is nothing but 3 comparisons that failed",
        ),
        (
            [{"agreement": 1.0, "tier": "a", "other_tier": "b"}],
            "c",
            "--cheap is 'c'; allowed: a tier that records compare: a, b.",
        ),
        ([{"needs_premium": True, "prompt": "x"}], "a", "allowed: left out where no record names"),
    ],
)
def test_where_nothing_is_left_it_is_said_why(
    records: list[dict[str, Any]], cheap: str | None, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_rows(located(records), 0.5, cheap)
    assert said in caught.value.message


def test_too_few_rows_are_refused_with_what_would_help() -> None:
    with pytest.raises(ConfigError) as caught:
        fit_route_model([row(*one) for one in texts(12)], 0.3)
    assert "FILE is 12 records, of which 4 need the premium tier and 8 do not" in str(caught.value)
    assert "at least 20 records, 5 of each kind" in str(caught.value)
    agreed: list[dict[str, Any]] = [
        {"agreement": 0.6 + number / 100, "prompt": "x" * number} for number in range(30)
    ]
    with pytest.raises(ConfigError) as caught:
        fit_route_model(read_rows(located(agreed), 0.5, None), 0.3)
    assert "30 records, of which 0 need the premium tier and 30 do not" in str(caught.value)
    assert "A --min-agreement above 0.64 and up to 0.85 has enough of each." in str(caught.value)
    for least in (0.6401, 0.85):
        fit_route_model(read_rows(located(agreed), least, None), 0.3)
    alike = [{**record, "agreement": 1.0} for record in agreed]
    with pytest.raises(ConfigError, match="Nearly all agree alike"):
        fit_route_model(read_rows(located(alike), 0.5, None), 0.3)
    with pytest.raises(ConfigError, match="40 records that are all alike"):
        fit_route_model([row("x", number % 2 == 0) for number in range(40)], 0.3)


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
