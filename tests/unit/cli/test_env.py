"""`headrace env`: what it says of the machine, the settings and the kernels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.app import build_app
from headrace.cli.env import collect, make_tables, set_variables
from headrace.config.resolve import gather_settings, resolve_config
from headrace.core.config import Config
from headrace.core.errors import ConfigError
from headrace.core.machine import Machine
from headrace.ops.kernel_note import IsaStatus
from headrace.ops.table import describe_kernels, isa_tiers


def run(tmp_path: Path, *arguments: str, **environ: str) -> Result:
    runner = CliRunner(env={"HEADRACE_HOME": str(tmp_path / "home"), "COLUMNS": "200", **environ})
    return runner.invoke(build_app(["env"]), ["env", *arguments])


def test_says_which_setting_comes_from_where(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("server: {port: 9}")
    found = json.loads(
        run(tmp_path, "--json", "--config", str(file), HEADRACE_ISA="generic").stdout
    )
    settings = {row["name"]: (row["value"], row["source"]) for row in found["settings"]}
    assert settings["engine.isa"] == ("generic", "HEADRACE_ISA")
    assert settings["server.port"] == (9, str(file))
    assert settings["server.host"] == ("127.0.0.1", "default")
    assert settings["engine.device"][1] == "derived: the best installed"
    assert settings["engine.memory_bytes"][0] is None
    sections = [s.name for s in dataclasses.fields(Config) if s.name != "routing"]
    names = {f"{name}.{f.name}" for name in sections for f in fields_of(name)}
    assert set(settings) == names
    assert found["isa"] == "generic" and found["isa_reason"] == "asked for by HEADRACE_ISA"
    assert found["variables"]["HEADRACE_ISA"] == "generic"
    assert all(
        "generic" in note["implementation"] or note["implementation"] == "numpy"
        for note in found["kernels"]
    )


def fields_of(section: str) -> tuple[dataclasses.Field[object], ...]:
    return dataclasses.fields(getattr(Config(), section))


def test_the_table_has_everything(tmp_path: Path) -> None:
    (tmp_path / "home" / "models").mkdir(parents=True)
    (tmp_path / "home" / "models" / "own.gguf").write_bytes(bytes(2048))
    shown = run(tmp_path).stdout
    assert f"1 in {tmp_path / 'home'}, 2.0 KiB" in shown
    best = [tier.name for tier in isa_tiers() if tier.is_available][-1]
    row = next(line for line in shown.splitlines() if line.startswith(best))
    assert row.rstrip().split(maxsplit=2)[1:] == ["yes", "used: the highest that runs here"]
    for family in (
        "embed",
        "norm",
        "matmul",
        "rope",
        "store_kv",
        "attention",
        "activation",
        "sampling",
    ):
        assert any(line.startswith(family) for line in shown.splitlines()), family


def test_models_that_are_linked_count_with_their_own_size(tmp_path: Path) -> None:
    models, elsewhere = tmp_path / "home" / "models", tmp_path / "elsewhere"
    models.mkdir(parents=True)
    (elsewhere / "folder").mkdir(parents=True)
    (elsewhere / "big.gguf").write_bytes(bytes(4096))
    (elsewhere / "folder" / "model.safetensors").write_bytes(bytes(1024))
    (models / "own.gguf").write_bytes(bytes(2048))
    (models / "linked.gguf").symlink_to(elsewhere / "big.gguf")
    (models / "again.gguf").hardlink_to(elsewhere / "big.gguf")
    (models / "linked-folder").symlink_to(elsewhere / "folder")
    (models / "round").symlink_to(models)
    (models / "gone.gguf").symlink_to(elsewhere / "gone")
    assert json.loads(run(tmp_path, "--json").stdout)["store_bytes"] == 2048 + 4096 + 1024


def test_the_reference_device_uses_no_instruction_set(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "--json", HEADRACE_DEVICE="reference").stdout)
    assert found["isa"] is None
    assert {note["implementation"] for note in found["kernels"]} == {"numpy float32"}


def test_a_tier_that_cannot_run_is_shown_beside_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is for people whose settings are wrong."""
    tiers = (IsaStatus("generic", True, ""), IsaStatus("amx", False, "the CPU lacks AMX tile"))

    def refuse(wanted: str | None) -> str:
        raise ConfigError("isa", wanted, "generic", "amx cannot run here: the CPU lacks AMX tile.")

    monkeypatch.setattr("headrace.cli.env.isa_tiers", lambda: tiers)
    monkeypatch.setattr("headrace.cli.env.chosen_isa", refuse)
    environ = {"HEADRACE_ISA": "amx", "HEADRACE_HOME": str(tmp_path), "HEADRACE_DEVICE": "cpu"}
    found = collect(resolve_config({}, environ), gather_settings({}, environ), environ)
    assert found.problems == [
        "isa is 'amx'; allowed: generic. amx cannot run here: the CPU lacks AMX tile."
    ]
    assert found.isa is None and found.kernels == ()
    assert len(found.settings) > 20
    tables = list(make_tables(found))
    assert list(tables[1].columns[2].cells) == ["", "the CPU lacks AMX tile"]


def test_passwords_are_left_out() -> None:
    environ = {"HTTPS_PROXY": "http://me:secret@proxy:3128", "HF_TOKEN": "hf_x", "HEADRACE_X": "1"}
    assert set_variables(environ) == {"HTTPS_PROXY": "http://...@proxy:3128", "HEADRACE_X": "1"}


def test_the_cpu_has_a_name(tmp_path: Path) -> None:
    found = json.loads(run(tmp_path, "--json").stdout)
    assert found["machine"]["cpu_model"] not in ("", "unknown")
    assert found["machine"]["num_cores"] >= 1
    assert Machine.__dataclass_fields__.keys() == found["machine"].keys()


def test_unknown_device() -> None:
    with pytest.raises(ConfigError, match="device is 'gpu'; allowed: cpu, cuda, reference"):
        describe_kernels("gpu")
