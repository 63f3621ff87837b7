"""The table of architectures: every name leads to a class, and only that one's file is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from headrace.models.bert import Bert
from headrace.models.llama import Llama
from headrace.models.registry import ENCODERS, MODELS, encoder_class, model_class


@pytest.mark.parametrize("architecture", MODELS)
def test_every_model_has_a_class(architecture: str) -> None:
    assert issubclass(model_class(architecture), Llama)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_every_encoder_has_a_class(architecture: str) -> None:
    assert issubclass(encoder_class(architecture), Bert)


def test_other_families_are_not_imported() -> None:
    code = (
        "import sys; from headrace.models.registry import model_class; model_class('qwen2');"
        "print(*sorted(name for name in sys.modules if name.startswith('headrace.models.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    families = {name.rpartition(".")[2] for name in done.stdout.split()}
    assert {"llama", "qwen2"} <= families
    assert not families & {"bert", "gemma3", "mixtral", "phi3", "qwen3"}
