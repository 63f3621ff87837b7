"""What somebody wrote is what an error names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from headrace.cli.as_given import as_given, in_words
from headrace.core.errors import (
    ConfigError,
    InvalidParameter,
    ModelNotFound,
    UnsupportedParameter,
)


def told(error: ConfigError | InvalidParameter, words: Sequence[str], **environ: str) -> str:
    return as_given(error, words, environ).message


THREADS = ConfigError("engine.num_threads", 0, "1 or more")


@pytest.mark.parametrize(
    ("words", "environ", "name"),
    [
        (["run", "--threads", "0"], {}, "--threads"),
        (["run", "--threads=0"], {"HEADRACE_NUM_THREADS": "0"}, "--threads"),
        (["run"], {"HEADRACE_NUM_THREADS": "0"}, "HEADRACE_NUM_THREADS"),
        (["run", "--config", "{file}"], {}, "{file}: engine.num_threads"),
        (["run", "--config={file}"], {}, "{file}: engine.num_threads"),
        (["run"], {"HEADRACE_CONFIG": "{file}"}, "{file}: engine.num_threads"),
        (["run", "--config", "{other}"], {"HEADRACE_CONFIG": "{file}"}, "engine.num_threads"),
        (["run", "--", "--threads"], {}, "engine.num_threads"),
        (["run", "--threads-of-mine"], {}, "engine.num_threads"),
    ],
)
def test_a_setting_is_named_as_it_was_given(
    words: list[str], environ: Mapping[str, str], name: str, tmp_path: Path
) -> None:
    files = {"file": tmp_path / "c.yaml", "other": tmp_path / "d.yaml"}
    files["file"].write_text("engine: {num_threads: 0}")
    files["other"].write_text("engine: {isa: generic}")
    filled = [word.format(**files) for word in words]
    around = {key: text.format(**files) for key, text in environ.items()}
    expected = f"{name.format(**files)} is 0; allowed: 1 or more."
    assert told(THREADS, filled, **around) == expected


def test_what_kernels_call_a_setting_is_the_engines() -> None:
    error = ConfigError("isa", "amx", "avx2")
    assert told(error, ["run", "--isa", "amx"]) == "--isa is 'amx'; allowed: avx2."
    assert told(error, [], HEADRACE_ISA="amx") == "HEADRACE_ISA is 'amx'; allowed: avx2."


def test_other_settings_in_the_sentence_are_too() -> None:
    error = ConfigError("engine.a", 1, "at least engine.num_threads (2)", "See server.port.")
    words = ["serve", "--threads", "2"]
    assert told(error, words) == "engine.a is 1; allowed: at least --threads (2). See server.port."


def test_a_parameter_is_named_by_its_flag_where_there_was_one() -> None:
    error = InvalidParameter("top_p", 0.0, "more than 0")
    assert told(error, ["run", "--top-p", "0"]) == "--top-p is 0.0; allowed: more than 0."
    assert told(error, ["run"]) == "top_p is 0.0; allowed: more than 0."
    assert told(InvalidParameter("model", "", "a name"), ["run", "-m", ""]).startswith("--model is")


@pytest.mark.parametrize(("command", "name"), [("pull", "NAME"), ("serve", "MODEL")])
def test_a_model_that_is_no_flag_is_called_as_the_help_calls_it(command: str, name: str) -> None:
    assert told(InvalidParameter("model", "", "a name"), [command, ""]).startswith(f"{name} is ''")


def test_what_is_not_supported_is_named_by_its_flag() -> None:
    error = UnsupportedParameter("top_k", "an upstream has none.")
    assert in_words(error, ["run", "--top-k", "3"], {}) == (
        "--top-k is not supported: an upstream has none."
    )
    assert in_words(error, ["run"], {}) == error.message


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["run", "-m", "nope"], "--model: "),
        (["run", "--model=nope"], "--model: "),
        (["run", "-mnope"], "--model: "),
        (["run", "-mother", "nope"], ""),
        (["serve", "small", "--draft-model", "nope"], "--draft-model: "),
        (["serve", "nope"], ""),
        (["run", "--system", "nope"], ""),
        (["run", "-m", "other", "--", "-m", "nope"], ""),
    ],
)
def test_a_model_that_is_not_there_is_told_with_its_flag(words: list[str], place: str) -> None:
    error = ModelNotFound("nope", ["a"])
    assert in_words(error, words, {}) == place + error.message


def test_a_flag_that_says_something_else_is_not_named() -> None:
    error = ConfigError("server.log_level", "loud", "debug, info")
    assert told(error, ["run", "--quiet"]) == "server.log_level is 'loud'; allowed: debug, info."


@pytest.mark.parametrize("field", ["tiers.big.backends", "tiers.big.backends[1].price"])
def test_what_lies_inside_a_part_of_the_file_is_in_the_file(field: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("tiers: {big: {backends: []}}")
    error = ConfigError(field, [], "a backend")
    assert told(error, ["serve", "--config", str(file)]).startswith(f"{file}: {field} is []")
    other = ConfigError("tiers.small.backends", [], "a backend")
    assert told(other, ["serve", "--config", str(file)]).startswith("tiers.small.backends is []")


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    error = ConfigError("config file", "gone.yaml", "a readable YAML file")
    words = "is 'gone.yaml'; allowed: a readable YAML file."
    assert told(error, ["run", "--config", "gone.yaml"]) == f"--config {words}"
    assert told(error, ["run"], HEADRACE_CONFIG="gone.yaml") == f"HEADRACE_CONFIG {words}"
