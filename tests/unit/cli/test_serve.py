"""What `headrace serve` says of models that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.app import build_app
from headrace.core.errors import ConfigError, ModelNotFound


def test_a_model_of_a_tier_that_is_not_there_is_told_with_its_tier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    settings = tmp_path / "tiers.yaml"
    settings.write_text("tiers: {one: {backends: [gemma3:27m]}}\n")

    def error_of(*words: str) -> BaseException | None:
        line = ["serve", *words, "--config", str(settings), "--port", "0"]
        return CliRunner().invoke(build_app(line), line).exception

    error = error_of()
    assert isinstance(error, ConfigError)
    assert error.message.startswith("tiers.one.backends is 'gemma3:27m'; allowed: models that run")
    assert "Did you mean gemma3:270m?" in error.message
    # One that the command names is no tier's.
    assert isinstance(error_of("qwen2.5-coder:0.6b"), ModelNotFound)
