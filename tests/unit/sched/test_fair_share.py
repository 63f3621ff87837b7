"""Shares of tenants: a flood starves nobody, nobody saves up, one tenant alone is first come."""

from __future__ import annotations

import random
from dataclasses import replace

from fakes.scheduling import Bench, make_spec
from headrace.core.step import StepReport
from headrace.sched import fair_share
from headrace.sched.fair_share import FairShare
from headrace.sched.request_queue import FairWithin
from headrace.sched.request_state import RequestSpec


def bench(policy: str = "fair", **limits: int) -> Bench:
    return Bench(policy=policy, num_blocks=400, has_prefix_cache=False, **limits)


def prompt(length: int, seed: int) -> tuple[int, ...]:
    return tuple(random.Random(seed).randrange(1000) for _ in range(length))


def flood(tenant: str, count: int, length: int, max_tokens: int) -> list[RequestSpec]:
    return [
        make_spec(f"{tenant}{index}", prompt(length, index), max_tokens, tenant=tenant)
        for index in range(count)
    ]


def order_of_ends(runs: Bench) -> list[str]:
    ends: list[str] = []
    while runs.scheduler.has_work:
        report: StepReport = runs.step()
        ends += [p.request_id for p in report.progress if p.finish_reason is not None]
    return ends


def places_after_a_flood(policy: str) -> list[int]:
    """When the five requests end that come behind fifty of another tenant."""
    runs = bench(policy, max_num_seqs=2)
    runs.add(*flood("a", 50, 20, 10))
    for _ in range(3):
        runs.step()
    runs.add(*flood("b", 5, 20, 10))
    ends = order_of_ends(runs)
    return [ends.index(f"b{index}") for index in range(5)]


def test_a_flood_delays_another_tenant_by_what_runs_already() -> None:
    fair = places_after_a_flood("fair")
    assert fair == sorted(fair)
    assert fair[0] <= 4
    assert fair[-1] < 12
    assert min(places_after_a_flood("fcfs")) >= 48


def test_priorities_come_first_and_each_is_fair_within() -> None:
    runs = bench(max_num_seqs=2)
    runs.add(*flood("a", 20, 20, 10))
    runs.step()
    urgent = flood("u", 6, 20, 10) + flood("v", 3, 20, 10)
    runs.add(*(replace(spec, priority=-1) for spec in urgent))
    runs.add(*(replace(spec, priority=4) for spec in flood("z", 2, 20, 10)))
    runs.add(*flood("b", 3, 20, 10))
    ends = order_of_ends(runs)
    # The urgent ones wait for no more than what runs, and a flood among them starves nobody.
    first = [name for name in ends if name[0] in "uv"]
    assert max(ends.index(name) for name in first) <= 10
    assert [name[0] for name in first[:6]].count("v") == 3
    # Then the others, fair as ever; what may wait comes last.
    assert max(ends.index(f"b{i}") for i in range(3)) < 9 + 12
    assert ends[-2:] == ["z0", "z1"]


def test_a_priority_that_nobody_has_is_forgotten() -> None:
    policy = FairWithin()
    runs = bench()
    runs.scheduler._places._ranks._interactive = policy
    runs.add(*(replace(spec, priority=i) for i, spec in enumerate(flood("a", 9, 5, 2))))
    runs.run()
    assert set(policy._shares) <= {0}


def test_large_and_small_requests_share_by_tokens() -> None:
    """One asks 4 times as much with each request: it gets a quarter of the requests."""
    runs = bench(max_num_seqs=1)
    runs.add(*flood("large", 40, 80, 20))
    runs.add(*flood("small", 160, 20, 5))
    ends = order_of_ends(runs)
    until = ends[: ends.index("large24")]
    small = sum(name.startswith("small") for name in until)
    assert 75 <= small <= 125


def test_a_wrong_guess_of_the_length_is_corrected() -> None:
    """Both may take 100 tokens. One stops after 4 and gets many times the requests for that."""
    runs = bench(max_num_seqs=1)
    stops = {"stop_token_ids": tuple(range(1000)), "min_tokens": 4}
    runs.add(*flood("long", 12, 8, 100))
    ends: list[str] = []
    for index in range(40):  # the next one is asked when the last one has ended, as clients do
        runs.add(make_spec(f"short{index}", prompt(8, index), 100, tenant="short", **stops))
        while f"short{index}" not in ends:
            ends += [p.request_id for p in runs.step().progress if p.finish_reason is not None]
    assert 2 <= sum(name.startswith("long") for name in ends) <= 8


def test_an_idle_tenant_saves_nothing_up() -> None:
    runs = bench(max_num_seqs=1)
    runs.add(*flood("late", 1, 20, 10))
    order_of_ends(runs)
    runs.add(*flood("busy", 30, 20, 10))
    for _ in range(200):
        runs.step()
    runs.add(*flood("again", 20, 20, 10))
    ends = order_of_ends(runs)
    first = ends[:16]
    again = sum(name.startswith("again") for name in first)
    assert 6 <= again <= 10


def test_one_tenant_alone_is_first_come_first_served() -> None:
    rng = random.Random(5)
    specs = [
        make_spec(f"r{index}", prompt(rng.randrange(1, 60), index), rng.randrange(1, 30))
        for index in range(60)
    ]
    orders = []
    for policy in ("fair", "fcfs"):
        runs = bench(policy, max_num_seqs=3)
        ends: list[str] = []
        for index, spec in enumerate(specs):
            runs.add(spec)
            if index % 3:
                ends += [p.request_id for p in runs.step().progress if p.finish_reason]
        orders.append(ends + order_of_ends(runs))
    assert orders[0] == orders[1]


def test_an_abort_gives_everything_back() -> None:
    runs = bench(max_num_seqs=1)
    runs.add(*flood("a", 1, 20, 10))
    runs.step()
    runs.add(*flood("b", 30, 100, 100))
    for index in range(30):
        runs.scheduler.abort(f"b{index}")
    runs.add(make_spec("b-last", prompt(20, 99), 10, tenant="b"))
    runs.add(*[make_spec(f"a-next{i}", prompt(20, i), 10, tenant="a") for i in range(5)])
    ends = [name for name in order_of_ends(runs) if name.startswith(("a", "b-"))]
    assert ends.index("b-last") <= 2


def test_what_was_aborted_holds_up_nobody_who_comes_after_it() -> None:
    """Also while another request of the tenant goes on."""
    runs = bench(max_num_seqs=1)
    runs.add(*flood("a", 50, 20, 10))
    runs.step()
    for index in range(1, 50):
        runs.scheduler.abort(f"a{index}")
    runs.add(make_spec("a-last", prompt(20, 99), 10, tenant="a"))
    runs.add(*flood("b", 20, 20, 10))
    ends = [name for name in order_of_ends(runs) if name[0] == "b" or name == "a-last"]
    assert ends.index("a-last") <= 2


def test_tenants_that_left_are_forgotten() -> None:
    shares = FairShare()
    runs = bench(max_num_seqs=4)
    runs.scheduler._places._ranks = shares
    many = fair_share._MAX_IDLE_TENANTS + 200
    for index in range(many):
        runs.add(make_spec(f"r{index}", (1, 2), 1, tenant=f"t{index}"))
        runs.step()
    order_of_ends(runs)
    assert len(shares._time._lines) < many
    assert not shares._expected
