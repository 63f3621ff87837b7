"""Standings, the best peer, and shares of the machine's peaks."""

from __future__ import annotations

import json

import pytest
from cells import CELLS
from findings import Findings
from pairs import Pair

from headrace.core.machine import Roof

CELL = {cell.name: cell for cell in CELLS}
WORK = {"stream_bytes": 400_000_000, "body_weights": 350_000_000, "head_weights": 130_000_000}


def findings(*pairs: Pair) -> Findings:
    facts = {"0.5b": {"headrace": {"ops": "cpu-amx", "work": WORK}}}
    return Findings({"rounds": 2}, list(pairs), facts)


def pair(
    cell: str, engine: str, number: int, ours: float, theirs: float, read: float = 2e10
) -> Pair:
    roof = Roof(read_bytes_per_s=read, int8_ops_per_s=8e12)
    return Pair(cell, engine, number, ours, theirs, CELL[cell].ratio(ours, theirs), roof)


def test_ratios_are_taken_within_rounds() -> None:
    found = findings(
        pair("decode-0.5b", "vllm", 0, ours=40, theirs=10),
        pair("decode-0.5b", "vllm", 1, ours=20, theirs=10),
        pair("decode-0.5b", "vllm", 2, ours=10, theirs=1),
    )
    (standing,) = found.standings(CELL["decode-0.5b"])
    assert (standing.ratio, standing.lowest, standing.highest) == (4, 2, 10)
    assert (standing.ours, standing.theirs, standing.rounds) == (20, 10, 3)


def test_the_best_peer_was_in_every_round() -> None:
    found = findings(
        pair("prefill-0.5b", "lucky-once", 0, ours=100, theirs=400),
        pair("prefill-0.5b", "vllm", 0, ours=100, theirs=90),
        pair("prefill-0.5b", "vllm", 1, ours=100, theirs=80),
        pair("prefill-0.5b", "slow", 0, ours=100, theirs=10),
    )
    cell = CELL["prefill-0.5b"]
    assert [each.engine for each in found.standings(cell)] == ["lucky-once", "vllm", "slow"]
    best = found.best(cell)
    assert best is not None and best.engine == "vllm"


def test_decode_is_a_share_of_the_bandwidth_of_its_own_round() -> None:
    found = findings(
        pair("decode-0.5b", "vllm", 0, ours=40, theirs=10, read=2e10),
        pair("decode-0.5b", "vllm", 1, ours=20, theirs=10, read=1e10),
    )
    assert found.standings(CELL["decode-0.5b"])[0].share == pytest.approx(0.8)


def test_prefill_and_batches_are_shares_of_the_int8_peak() -> None:
    found = findings(
        pair("prefill-0.5b", "vllm", 0, ours=1000, theirs=500),
        pair("together-0.5b", "vllm", 0, ours=200, theirs=100),
    )
    prefill_s = 512 / 1000
    operations = 2 * (512 * WORK["body_weights"] + WORK["head_weights"])
    wanted = operations / prefill_s / 8e12
    assert found.standings(CELL["prefill-0.5b"])[0].share == pytest.approx(wanted)
    together_s = 32 * 64 / 200
    # The last token of an answer is never fed back.
    operations = 2 * 32 * ((128 + 63) * WORK["body_weights"] + 64 * WORK["head_weights"])
    wanted = operations / together_s / 8e12
    assert found.standings(CELL["together-0.5b"])[0].share == pytest.approx(wanted)


def test_a_start_has_no_share_and_less_is_better() -> None:
    found = findings(pair("start-0.5b", "vllm", 0, ours=0.5, theirs=100))
    (standing,) = found.standings(CELL["start-0.5b"])
    assert standing.ratio == pytest.approx(200)
    assert standing.share is None


def test_the_record_is_json_with_every_pair_and_failure() -> None:
    found = findings(pair("decode-0.5b", "vllm", 0, ours=40, theirs=10))
    found.failures["0.5b"] = {"openvino-gguf": "unsupported tensor type"}
    record = json.loads(json.dumps(found.as_json()))
    assert record["benchmark"] == "peers/bench_peers"
    assert [cell["name"] for cell in record["cells"]] == ["decode-0.5b"]
    assert record["cells"][0]["best"] == "vllm"
    assert record["pairs"][0]["roof"]["read_bytes_per_s"] == 2e10
    assert record["failures"]["0.5b"]["openvino-gguf"] == "unsupported tensor type"
