"""Which models are encoders, told without loading one."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.launch.model_kind import ENCODER_TYPES, is_encoder
from headrace.models.registry import ENCODERS, MODELS


def test_the_types_are_those_of_the_registry() -> None:
    assert set(ENCODERS) == ENCODER_TYPES
    assert not ENCODER_TYPES & set(MODELS)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ('{"model_type": "bert"}', True),
        ('{"model_type": "qwen2"}', False),
        ('{"model_type": ["bert"]}', False),
        ("[]", False),
        ("{", False),
        (None, False),
    ],
)
def test_a_folder_says_what_it_is(tmp_path: Path, config: str | None, expected: bool) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert is_encoder(tmp_path) is expected
    assert not is_encoder(tmp_path / "config.json")
