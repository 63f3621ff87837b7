"""YAML to settings, strictly."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from headrace.config.load import ALL_SECTIONS, SECTIONS, build_config, convert, load_settings
from headrace.core.config import Config
from headrace.core.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "headrace.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_a_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "engine:\n  num_threads: 2\n  memory_bytes: 1.5GiB\n  isa:\nhub:\n"
        "server:\n  served_model_names: [a, b]\n",
    )
    assert load_settings(path) == {
        "engine.num_threads": 2,
        "engine.memory_bytes": "1.5GiB",
        "engine.isa": None,
        "server.served_model_names": ["a", "b"],
    }


def test_an_empty_file_is_no_settings(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "# nothing\n")) == {}


@pytest.mark.parametrize(
    ("text", "field", "hint"),
    [
        ("engin:\n  num_threads: 2\n", "engin", "Did you mean engine?"),
        ("engine:\n  num_thread: 2\n", "engine.num_thread", "Did you mean engine.num_threads"),
        ("engine:\n  1: 2\n", "engine.1", ""),
        ("engine: 3\n", "engine", ""),
        ("- a\n", "config file", ""),
        ("just text\n", "config file", ""),
        ("engine:\n  policy: fcfs\n  policy: priority\n", "policy", "line 3"),
        ("engine: {}\nhub: {}\nengine: {}\n", "engine", "line 3"),
        ("engine: [\n", "config file", ""),
        ("engine: !!python/object/apply:os.system ['true']\n", "config file", "python/object"),
        ("? [a, b]\n: 1\n", "config file", "unhashable"),
    ],
)
def test_refuses_files(tmp_path: Path, text: str, field: str, hint: str) -> None:
    with pytest.raises(ConfigError) as failure:
        load_settings(write(tmp_path, text))
    assert failure.value.field == field
    assert hint in failure.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "engin: {}\n",
            "engin is no section. Did you mean engine? Allowed: engine, hub, server, store, "
            "economics, upstreams, tiers, routing.",
        ),
        (
            "engine:\n  memory: 4GiB\n",
            "engine.memory is no setting. Did you mean engine.memory_bytes or ",
        ),
        ("hub:\n  xyzzy: 1\n", "hub.xyzzy is no setting; allowed: hub.home, "),
        ("hub: {}\nhub: {}\n", "hub is given twice, again in line 2; allowed: each key once."),
    ],
)
def test_a_name_is_not_worded_as_a_value(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as failure:
        load_settings(write(tmp_path, text))
    assert failure.value.message.startswith(message)


def test_refuses_what_is_no_text_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_settings(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_settings(tmp_path)
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (1024**2 + 1))
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        load_settings(big)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="YAML text"):
        load_settings(binary)


def test_deep_nesting_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_settings(write(tmp_path, "engine: " + "[" * 100_000))


@pytest.mark.parametrize(
    ("setting", "value", "converted"),
    [
        ("engine.num_threads", "4", 4),
        ("engine.num_threads", None, None),
        ("engine.isa", " AVX2 ", "avx2"),
        ("engine.memory_bytes", "2GiB", 2**31),
        ("engine.memory_bytes", None, None),
        ("engine.enable_prefix_caching", "off", False),
        ("hub.offline", "1", True),
        ("hub.home", "~/x", Path.home() / "x"),
        ("hub.connect_timeout_s", "2.5", 2.5),
        ("hub.connect_timeout_s", 2, 2.0),
        ("server.served_model_names", "one", ("one",)),
        ("server.served_model_names", ["a", "b"], ("a", "b")),
        ("server.port", 80, 80),
    ],
)
def test_converts(setting: str, value: object, converted: object) -> None:
    result = convert(setting, value)
    assert result == converted
    assert type(result) is type(converted)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("engine.num_threads", "four"),
        ("engine.num_threads", 1.5),
        ("engine.num_threads", True),
        ("engine.isa", "avx3"),
        ("engine.isa", 2),
        ("engine.memory_bytes", "much"),
        ("engine.memory_bytes", 1.5),
        ("engine.memory_bytes", [1]),
        ("engine.enable_prefix_caching", 2),
        ("engine.max_num_seqs", None),
        ("hub.offline", "maybe"),
        ("hub.home", ""),
        ("hub.home", 3),
        ("hub.connect_timeout_s", "soon"),
        ("server.host", 1),
        ("server.served_model_names", [1]),
        ("server.served_model_names", {"a": 1}),
        ("server.port", "80a"),
    ],
)
def test_refuses_values_by_name(setting: str, value: object) -> None:
    with pytest.raises(ConfigError) as failure:
        convert(setting, value, shown_as="WHERE")
    assert failure.value.field == "WHERE"


def test_a_wrong_choice_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean avx512\?"):
        convert("engine.isa", "avx51")


def test_a_file_of_another_kind_is_named_with_all_sections(tmp_path: Path) -> None:
    path = write(tmp_path, "[1, 2]\n")
    with pytest.raises(ConfigError) as failure:
        load_settings(path)
    assert failure.value.message == (
        f"config file is {str(path)!r}; allowed: a map with engine, hub, server, store, economics, "
        "upstreams, tiers, routing. It has a list."
    )
    # Three of the file are one of the record.
    assert [field.name for field in fields(Config)] == [*SECTIONS, "routing"]
    assert set(ALL_SECTIONS) == {*SECTIONS, "upstreams", "tiers", "routing"}


def test_off_without_quotes_is_the_word(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "store:\n  ledger: on\n  requests: off\n"))
    assert convert("store.ledger", settings["store.ledger"]) == "on"
    assert convert("store.requests", settings["store.requests"]) == "off"


def test_every_field_of_every_record_can_be_converted() -> None:
    """A new field with a type that the converter does not know fails here."""
    for section, record in SECTIONS.items():
        defaults = record()
        for field in fields(record):
            value = getattr(defaults, field.name)
            assert convert(f"{section}.{field.name}", value) == value


def test_out_of_range_is_found_when_the_records_are_made() -> None:
    with pytest.raises(ConfigError, match=r"server\.port is 70000"):
        build_config({"server.port": 70000})
