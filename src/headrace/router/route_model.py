"""RouteModel: tells by cheap features how likely a request needs the premium tier.

In: a small JSON file with weights, a threshold, and what was measured of them; requests' facts.
Out: a probability. Reads what it is given with care: the file is configuration, but a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen
from headrace.router.features import RequestFacts
from headrace.router.logistic import Logistic
from headrace.router.route_features import FEATURES

FORMAT = "headrace-route-model"
VERSION = 1
MAX_FILE_BYTES = 1024**2


@frozen
class RouteModel:
    """Features are standardized: (value - mean) / scale. `metrics` are what the fit measured."""

    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    logistic: Logistic
    threshold: float
    metrics: Mapping[str, Any]

    def score(self, facts: RequestFacts) -> float:
        """How likely it needs the premium tier."""
        return self.score_values({name: FEATURES[name](facts) for name in self.features})

    def score_values(self, values: Mapping[str, float]) -> float:
        """The same of features that are known."""
        return self.logistic.probability(
            standardize([values[name] for name in self.features], self.means, self.scales)
        )

    def to_json(self) -> str:
        """The file."""
        tree = {
            "format": FORMAT,
            "version": VERSION,
            "threshold": self.threshold,
            "bias": self.logistic.bias,
            "features": [
                {"name": name, "weight": weight, "mean": mean, "scale": scale}
                for name, weight, mean, scale in zip(
                    self.features, self.logistic.weights, self.means, self.scales, strict=True
                )
            ],
            "metrics": dict(self.metrics),
        }
        return json.dumps(tree, indent=2) + "\n"


def standardize(
    values: Sequence[float], means: Sequence[float], scales: Sequence[float]
) -> list[float]:
    """Values as the weights are for."""
    return [
        (value - mean) / scale for value, mean, scale in zip(values, means, scales, strict=True)
    ]


def read_route_model(path: Path, where: str) -> RouteModel:
    """Raises: ConfigError naming `where`."""
    allowed = "a file that `headrace route fit` wrote"
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(where, str(path), allowed, f"It has over {MAX_FILE_BYTES} bytes.")
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(where, str(path), allowed, f"{error.strerror or error}.") from None
    except (ValueError, RecursionError):
        raise ConfigError(where, str(path), allowed, "It is not JSON.") from None
    try:
        return _read_tree(tree)
    except ValueError as error:
        raise ConfigError(where, str(path), allowed, f"It says: {error}.") from None
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(where, str(path), allowed, "It has not the fields of one.") from None


def _read_tree(tree: Any) -> RouteModel:
    if tree["format"] != FORMAT or tree["version"] != VERSION:
        raise ValueError(f"format {tree['format']!r}, version {tree['version']!r}")
    rows = tree["features"]
    names = tuple(str(row["name"]) for row in rows)
    unknown = [name for name in names if name not in FEATURES]
    if unknown or len(set(names)) != len(names) or not names:
        raise ValueError(f"features {', '.join(unknown or names) or 'none'}")
    scales = _numbers(row["scale"] for row in rows)
    if any(scale <= 0 for scale in scales):
        raise ValueError("a scale that is not above 0")
    (threshold, bias) = _numbers((tree["threshold"], tree["bias"]))
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold}")
    logistic = Logistic(_numbers(row["weight"] for row in rows), bias)
    means = _numbers(row["mean"] for row in rows)
    return RouteModel(names, means, scales, logistic, threshold, dict(tree.get("metrics") or {}))


def _numbers(values: Any) -> tuple[float, ...]:
    found = tuple(values)
    for value in found:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise ValueError(f"{value!r} where a number belongs")
    return tuple(float(value) for value in found)
