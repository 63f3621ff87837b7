"""Device cuda on a machine that cannot run it: one sentence that says what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import headrace.ops.cuda
from headrace.core.errors import ConfigError
from headrace.ops.table import describe_gpu, describe_kernels, make_ops, make_rank_ops

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_ops_name_what_is_missing_and_what_to_do() -> None:
    for ask in (lambda: make_ops("cuda"), lambda: describe_gpu("cuda")):
        with pytest.raises(ConfigError, match="cuda") as caught:
            ask()
        assert caught.value.field == "engine.device"
        assert "cpu" in caught.value.allowed
        assert caught.value.hint


@pytest.mark.parametrize("missing", [(), ("triton",), ("torch", "triton")])
def test_whoever_asks_is_told_the_same(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`headrace env` asks for the GPU first, an engine for the kernels."""
    package = "headrace.ops.cuda."
    for name in [name for name in sys.modules if name.startswith(package)]:
        # Set to what it is, so that it is that again afterwards.
        monkeypatch.setattr(headrace.ops.cuda, name.removeprefix(package), sys.modules[name])
        monkeypatch.delitem(sys.modules, name)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    reasons = []
    for ask in (make_ops, describe_gpu, describe_kernels, lambda _: make_rank_ops("cuda", 0, 2)):
        with pytest.raises(ConfigError) as caught:
            ask("cuda")
        reasons.append(caught.value.message)
    assert len(set(reasons)) == 1, reasons
    assert ("cannot be loaded" in reasons[0]) == ("torch" in missing)


def test_every_rank_wants_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    device = pytest.importorskip("headrace.ops.cuda.device", exc_type=ImportError)
    with pytest.raises(ConfigError, match=r"engine\.device"):
        device.check_num_gpus(2)
    monkeypatch.setattr(device, "why_unusable", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    device.check_num_gpus(2)
    with pytest.raises(ConfigError, match=r"tensor_parallel_size is 4; allowed: 1 to 2 on.*sees 2"):
        device.check_num_gpus(4)


def test_other_devices_have_no_gpu() -> None:
    assert describe_gpu("cpu") is None


def test_driver_versions_are_read_from_the_kernels_file(tmp_path: Path) -> None:
    device = pytest.importorskip("headrace.ops.cuda.device", exc_type=ImportError)
    file = tmp_path / "version"
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024"
    file.write_text(line + "\nGCC version:  gcc version 11.4.0\n")
    assert device.driver_version(file) == "550.54.15"
    assert device.driver_version(tmp_path / "none") is None
    assert device.why_unusable(file)
