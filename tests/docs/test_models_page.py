"""The page of models names every architecture that runs, and every scaling of rotary embedding."""

from __future__ import annotations

from pages import ROOT, quoted

from headrace.models.registry import ENCODERS, MODELS
from headrace.models.rope_config import SCALINGS
from headrace.weights.names import ARCHITECTURES

PAGE = ROOT / "docs" / "reference" / "models.md"


def test_every_architecture_and_scaling_is_on_the_page() -> None:
    named = set(quoted(PAGE))
    assert {*MODELS, *ENCODERS} - named == set()
    assert set(ARCHITECTURES) - named == set()
    assert set(SCALINGS) - named - {"default"} == set()
