"""Precedence of flags, environment, file and defaults; what `auto` becomes; the variables."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from headrace.config import env
from headrace.config.machine import detect_machine
from headrace.config.resolve import resolve_config, resolve_engine
from headrace.core.config import EngineConfig
from headrace.core.errors import ConfigError
from headrace.core.machine import Machine

MACHINE = Machine(
    num_cores=4, num_cpus=8, memory_total_bytes=2**34, memory_available_bytes=10 * 2**30
)


def test_the_strongest_wins(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("engine: {num_threads: 1, isa: generic, block_size: 64, policy: priority}")
    environ = {"HEADRACE_NUM_THREADS": "2", "HEADRACE_ISA": "avx2"}
    flags = {"engine.num_threads": 3, "engine.isa": None}
    engine = resolve_config(flags, environ, file).engine
    assert (engine.num_threads, engine.isa, engine.block_size) == (3, "avx2", 64)
    assert (engine.policy, engine.max_num_seqs) == ("priority", 64)


def test_the_file_may_be_named_by_the_environment_and_the_flag_wins(tmp_path: Path) -> None:
    for name, port in (("env", 1), ("flag", 2)):
        (tmp_path / name).write_text(f"server: {{port: {port}}}")
    environ = {"HEADRACE_CONFIG": str(tmp_path / "env")}
    assert resolve_config({}, environ).server.port == 1
    assert resolve_config({}, environ, tmp_path / "flag").server.port == 2


def test_home(tmp_path: Path) -> None:
    assert resolve_config({}, {}).hub.home == Path.home() / ".cache" / "headrace"
    xdg = {"XDG_CACHE_HOME": str(tmp_path)}
    assert resolve_config({}, xdg).hub.home == tmp_path / "headrace"
    both = {**xdg, "HEADRACE_HOME": "~/models"}
    assert resolve_config({}, both).hub.home == Path.home() / "models"
    relative = {"XDG_CACHE_HOME": "cache"}
    assert resolve_config({}, relative).hub.home == Path.home() / ".cache" / "headrace"


def test_errors_name_the_variable_and_the_flag() -> None:
    with pytest.raises(ConfigError) as failure:
        resolve_config({}, {"HEADRACE_NUM_THREADS": "many"})
    assert failure.value.field == "HEADRACE_NUM_THREADS"
    with pytest.raises(ConfigError, match=r"engine\.thread is no setting\. Did you mean "):
        resolve_config({"engine.thread": 1}, {})


def test_of_several_values_the_wrong_one_is_shown() -> None:
    origins = ("https://app.example.org", "app.example.org")
    flags = {"server.cors_origins": "--cors-origin"}
    with pytest.raises(ConfigError, match=r"--cors-origin is 'app\.example\.org'; allowed"):
        resolve_config({"server.cors_origins": origins}, {}, flag_names=flags)


def test_an_empty_variable_is_not_set() -> None:
    assert resolve_config({}, {"HEADRACE_ISA": "", "HEADRACE_CONFIG": " "}).engine.isa is None


def test_unknown_variables_are_said_with_near_names(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolve_config({}, {"HEADRACE_THREADS": "2", "HEADRACE_ZZZ": "1", "OTHER": "x"})
    threads, unknown = sorted(caplog.messages)
    assert "HEADRACE_THREADS is not read" in threads and "HEADRACE_NUM_THREADS" in threads
    assert "HEADRACE_ZZZ" in unknown and "Known: HEADRACE_CONFIG" in unknown


def test_every_variable_sets_its_setting() -> None:
    texts = {
        "HEADRACE_HOME": "/srv/headrace",
        "HEADRACE_OFFLINE": "1",
        "HEADRACE_CONNECT_TIMEOUT_S": "7",
        "HEADRACE_DEVICE": "reference",
        "HEADRACE_ISA": "generic",
        "HEADRACE_NUM_THREADS": "2",
        "HEADRACE_MEMORY": "1GiB",
        "HEADRACE_DATABASE": "sqlite:////srv/keys.db",
        "HEADRACE_STORE_REQUESTS": "full",
        "HEADRACE_LOG_LEVEL": "debug",
        "HEADRACE_LOG_FORMAT": "json",
    }
    settings = {variable.name: variable.setting for variable in env.VARIABLES if variable.setting}
    assert settings.keys() == texts.keys()
    config, default = resolve_config({}, texts), resolve_config({}, {})
    for setting in settings.values():
        section, _, name = setting.partition(".")
        before = getattr(getattr(default, section), name)
        assert getattr(getattr(config, section), name) != before, setting


def test_at_most_a_dozen_variables_each_with_words() -> None:
    assert len(env.VARIABLES) <= 12
    assert all(variable.text.endswith(".") for variable in env.VARIABLES)


def test_auto_becomes_values() -> None:
    engine = resolve_engine(EngineConfig(), MACHINE)
    assert engine.device in ("cpu", "reference")
    assert engine.num_threads == 4
    assert engine.kv_cache_dtype == "bf16"
    assert engine.memory_bytes is None, "the memory plan knows the model"


def test_what_was_given_stays() -> None:
    given = EngineConfig(
        device="reference", num_threads=2, memory_bytes=2**30, kv_cache_dtype="int8"
    )
    assert resolve_engine(given, MACHINE) == given


def test_this_machine() -> None:
    machine = detect_machine()
    assert 1 <= machine.num_cores <= machine.num_cpus
    assert 2**28 < machine.memory_available_bytes <= machine.memory_total_bytes


def fake_root(tmp_path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_container_limits_memory_and_cpus(tmp_path: Path) -> None:
    root = fake_root(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
            "sys/fs/cgroup/memory.max": "4294967296\n",
            "sys/fs/cgroup/memory.current": "3221225472\n",
            "sys/fs/cgroup/memory.stat": "anon 1\ninactive_file 1073741824\n",
            "sys/fs/cgroup/cpu.max": "100000 100000\n",
        },
    )
    machine = detect_machine(root)
    assert machine.memory_total_bytes == 4 * 2**30
    assert machine.memory_available_bytes == 2 * 2**30
    assert (machine.num_cpus, machine.num_cores) == (1, 1)


@pytest.mark.parametrize("limited", ["", "system.slice/", "system.slice/headrace.service/"])
def test_a_service_is_limited_by_every_group_around_it(tmp_path: Path, limited: str) -> None:
    """Of systemd's MemoryMax and CPUQuota nothing is seen at the top of the tree."""
    group = f"sys/fs/cgroup/{limited}"
    root = fake_root(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
            "proc/self/cgroup": "1:name=systemd:/other\n0::/system.slice/headrace.service\n",
            "sys/fs/cgroup/system.slice/headrace.service/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/headrace.service/memory.current": "4096\n",
            "sys/fs/cgroup/system.slice/memory.max": "8589934592\n",
            "sys/fs/cgroup/system.slice/memory.current": "0\n",
            f"{group}memory.max": "4294967296\n",
            f"{group}memory.current": "1073741824\n",
            f"{group}cpu.max": "100000 100000\n",
        },
    )
    machine = detect_machine(root)
    assert machine.memory_total_bytes == 4 * 2**30
    assert machine.memory_available_bytes == 3 * 2**30
    assert machine.num_cpus == 1


def test_a_group_outside_of_the_mounted_ones(tmp_path: Path) -> None:
    root = fake_root(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
            "proc/self/cgroup": "0::/../other\n",
            "sys/fs/cgroup/memory.max": "4294967296\n",
            "sys/fs/cgroup/memory.current": "0\n",
        },
    )
    assert detect_machine(root).memory_total_bytes == 4 * 2**30


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    root = fake_root(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1024 kB\nBroken\n",
            "sys/fs/cgroup/memory.max": "max\n",
            "sys/fs/cgroup/memory.current": "3221225472\n",
            "sys/fs/cgroup/cpu.max": "max 100000\n",
        },
    )
    machine = detect_machine(root)
    assert machine.memory_total_bytes == 16 * 2**30
    assert machine.memory_available_bytes == 2**20
    assert machine.num_cpus >= 1


def test_without_proc_it_still_answers(tmp_path: Path) -> None:
    assert detect_machine(tmp_path).memory_total_bytes > 2**28
