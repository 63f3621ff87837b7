"""The C++ extension refuses what does not fit before a kernel reads it; it ends no process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace import _cpu

F32, BF16 = 0, _cpu.KVFormat.BF16
_ONE_TOKEN = ([0], [0], [0], [0, 1], [1])
# Of a user that may start no more processes; the superuser has no such limit.
_NO_THREADS = """
import os, resource, sys
import numpy as np
from headrace import _cpu
ops = _cpu.CpuOps("generic", 1)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


def _ints(*values: int) -> NDArray[np.int32]:
    return np.array(values, np.int32)


def _floats(*shape: int) -> NDArray[np.float32]:
    return np.ones(shape, np.float32)


def _table(num_rows: int, num_bytes: int) -> NDArray[np.uint8]:
    return np.zeros((num_rows, num_bytes), np.uint8)


def _run(plan: _cpu.StepPlan) -> None:
    plan.run(*(_ints(*values) for values in _ONE_TOKEN), _ints(0).reshape(1, 1), _ints(0))


@pytest.fixture
def ops() -> _cpu.CpuOps:
    return _cpu.CpuOps("generic", 1)


@pytest.mark.parametrize(("num_bytes", "width"), [(4, 1 << 24), (4, 2), (8, 1)])
def test_rows_of_a_table_have_the_width_that_is_read(
    ops: _cpu.CpuOps, num_bytes: int, width: int
) -> None:
    with pytest.raises(ValueError, match="rows must have the width of out"):
        _cpu.embed(ops, _ints(0), _table(1, num_bytes), F32, 1.0, _floats(1, width))
    with pytest.raises(ValueError, match="rows must have the width of out"):
        _cpu.StepPlan(ops).embed(_table(1, num_bytes), F32, width, 1.0)


def test_a_table_has_whole_blocks_of_a_format_that_is_read(ops: _cpu.CpuOps) -> None:
    q8_0 = 8
    for ggml_type, width in ((q8_0, 33), (12345, 32)):
        with pytest.raises(ValueError, match="not one that embed reads"):
            _cpu.embed(ops, _ints(0), _table(1, 34), ggml_type, 1.0, _floats(1, width))


def test_heads_whose_number_overflows_are_refused(ops: _cpu.CpuOps) -> None:
    for heads in ((100_000_000, -49_999_999, 32), (-1, 2, 32), (1, 1, 0)):
        with pytest.raises(ValueError, match="H, K and D must be positive"):
            _cpu.rope(ops, _floats(1, 64), _ints(0), _floats(4, 0), _floats(4, 0), *heads)


def test_queries_are_checked_before_they_are_read(ops: _cpu.CpuOps) -> None:
    layer = _cpu.KVLayer(4, 1, 32, 32, BF16, BF16)
    with pytest.raises(ValueError, match="query_start must ascend"):
        _cpu.attention(
            ops, _floats(1, 96), layer, _ints(0), _ints(0, 2_000_000_000, 1), _ints(1, 1),
            np.zeros((2, 4), np.int32), 1, 1.0, 0, 0.0, _floats(1, 32),
        )  # fmt: skip


@pytest.mark.parametrize("num_blocks", [-1, 1 << 53, (1 << 63) - 1])
def test_a_cache_has_a_size(num_blocks: int) -> None:
    with pytest.raises(ValueError, match=r"num_blocks is .* allowed: 0 to"):
        _cpu.KVLayer(num_blocks, 1, 32, 32, BF16, BF16)


def test_rows_of_nothing_are_refused_or_empty(ops: _cpu.CpuOps) -> None:
    with pytest.raises(ValueError, match="at least one weight"):
        _cpu.pack_linear(ops, [("f32", _table(16, 0), False)], 0)
    _cpu.rms_norm(ops, _floats(2, 0), _floats(0), 0.0, _floats(2, 0))


def test_a_plan_runs_when_it_is_finished_and_what_it_gives_is_there(ops: _cpu.CpuOps) -> None:
    plan = _cpu.StepPlan(ops)
    value = plan.embed(_table(1, 4), F32, 1, 1.0)
    with pytest.raises(ValueError, match="finished before it runs"):
        _run(plan)
    with pytest.raises(IndexError):
        plan.finish([value + 1])
    plan.finish([value])
    _run(plan)


def test_rows_that_are_wanted_and_all_rows_do_not_mix(ops: _cpu.CpuOps) -> None:
    plan = _cpu.StepPlan(ops)
    every = plan.embed(_table(1, 96 * 4), F32, 96, 1.0)
    wanted = plan.take_wanted(every)
    with pytest.raises(ValueError, match="add must be"):
        plan.rms_norm(every, _floats(96), 0.0, wanted)
    with pytest.raises(ValueError, match="a row for every token"):
        plan.attention(wanted, _cpu.KVLayer(1, 1, 32, 32, BF16, BF16), 1, 1.0, 0, 0.0)


def test_what_is_written_to_is_the_array_that_was_given(ops: _cpu.CpuOps) -> None:
    x = _floats(2, 32)
    weight = _cpu.pack_linear(ops, [("f32", _table(16, 128), False)], 32)
    read_only = _floats(2, 16)
    read_only.flags.writeable = False
    for y in (np.ones((2, 16)), _floats(2, 32)[:, ::2], read_only):
        with pytest.raises(TypeError):
            _cpu.linear(ops, x, weight, y)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        _cpu.gelu(ops, np.ones((2, 16)))  # type: ignore[arg-type]


def test_shares_of_probability_are_not_negative(ops: _cpu.CpuOps) -> None:
    one = _floats(1)
    for shares in ((-one, one, one), (one, one, -one)):
        with pytest.raises(ValueError, match="must not be negative"):
            _cpu.sample(
                ops, _floats(1, 64), one, _ints(8), *shares, np.zeros(1, np.uint64),
                np.zeros(1, np.int64), _ints(0),
            )  # fmt: skip


def _without_threads(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _NO_THREADS + program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_threads_that_cannot_start_are_an_error() -> None:
    done = _without_threads(
        "try:\n    _cpu.CpuOps('generic', 8)\nexcept RuntimeError as error:\n    print(error)"
    )
    assert done.returncode == 0, done.stderr
    assert "only 1 of 8 threads could be started" in done.stdout


def test_weights_are_packed_where_no_thread_can_start() -> None:
    done = _without_threads(
        "weight = _cpu.pack_linear(ops, [('f32', np.ones((16, 128), np.uint8), False)], 32)\n"
        "_cpu.finish_packing(ops)\nprint(weight.is_packed)"
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
