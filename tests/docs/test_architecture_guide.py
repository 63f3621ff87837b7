"""The guide shows the code as it is: every block stands in the file that it names."""

from __future__ import annotations

import re

import pytest
from pages import ROOT

from headrace.models.registry import MODELS
from headrace.weights.names import ARCHITECTURES, GGUF_WORDS

PAGE = ROOT / "docs" / "guides" / "add-an-architecture.md"
SHOWN = re.findall(
    r"^```source\n# (\S+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
NAMES = re.findall(r"`([A-Za-z_][\w.]*)`", PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("path", "code"), SHOWN, ids=[path for path, _ in SHOWN])
def test_what_is_shown_stands_there(path: str, code: str) -> None:
    assert code in (ROOT / path).read_text(encoding="utf-8")


def test_there_is_something_to_see() -> None:
    assert {path for path, _ in SHOWN} >= {
        "src/headrace/models/qwen3.py",
        "src/headrace/models/registry.py",
        "src/headrace/weights/names.py",
        "tests/oracle/tiny_models.py",
    }


def test_names_of_code_are_in_the_code() -> None:
    """Functions, records and tables that the text names."""
    parts = ("models", "weights", "ops", "executor")
    folders = [f"src/headrace/{part}" for part in parts] + ["tests/oracle", "tests/models"]
    folders += ["tests/unit/weights"]
    code = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    ) + (ROOT / "src/headrace/core/errors.py").read_text(encoding="utf-8")
    known = {"config.json", "general.architecture"}
    missing = [
        name
        for name in NAMES
        if name not in known and not re.search(rf"\b{re.escape(name.split('.')[-1])}\b", code)
    ]
    assert len(NAMES) > 15
    assert missing == []


def test_both_tables_know_the_same_families() -> None:
    """Step 3: what runs has names; spellings of Hugging Face stand for those of GGUF."""
    spelt = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3"}
    assert {spelt.get(name, name) for name in MODELS} == set(ARCHITECTURES)
    assert {*GGUF_WORDS, *GGUF_WORDS.values()} < set(ARCHITECTURES)


def test_files_that_the_guide_names_are_there() -> None:
    named = re.findall(r"`((?:src|tests|csrc)/[\w./-]+)(?:::(\w+))?`", PAGE.read_text("utf-8"))
    assert len(named) > 20
    for path, test in named:
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text("utf-8"), test
