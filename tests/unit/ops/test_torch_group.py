"""A group of one rank over gloo; several are in tests/cuda and benchmarks/cuda/ranks.py."""

from __future__ import annotations

import psutil
import pytest

from headrace.core.errors import ConfigError

torch = pytest.importorskip("torch")


def test_a_process_is_in_one_group_at_a_time() -> None:
    group = pytest.importorskip("headrace.ops.cuda.torch_group")
    for _ in range(2):
        first, second = (group.TorchGroup(0, 1, torch.device("cpu")) for _ in range(2))
        first.join(first.open())
        try:
            with pytest.raises(ConfigError, match=r"second model.*close it first"):
                second.join("1")
            x = torch.arange(6.0).reshape(2, 3)
            assert torch.equal(first.all_reduce(x.clone()), x)
            assert torch.equal(first.all_gather(x), x[None])
            assert first.all_gather(x[:0]).shape == (1, 0, 3)
        finally:
            first.close()
            first.close()


def test_only_this_machine_reaches_a_group() -> None:
    group = pytest.importorskip("headrace.ops.cuda.torch_group")
    before = listening()
    ranks = group.TorchGroup(0, 1, torch.device("cpu"))
    ranks.join(ranks.open())
    try:
        assert {host for host, _ in listening() - before} == {"127.0.0.1"}
    finally:
        ranks.close()


def listening() -> set[tuple[str, int]]:
    """Addresses and ports that this process takes connections at."""
    found = psutil.Process().net_connections(kind="inet")
    return {tuple(each.laddr) for each in found if each.status == psutil.CONN_LISTEN}
