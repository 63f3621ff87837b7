"""Objectives: what people write, and which answers keep them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headrace.bench.outcome import Failure, Outcome
from headrace.bench.slo import Slo, parse_slo
from headrace.core.errors import ConfigError

# Due at 1.0; first text after 0.3 s; gaps of 0.1 and 0.2 s; ended after 0.75 s.
ANSWER = Outcome(
    index=0, scheduled_s=1.0, sent_s=1.0, end_s=1.75, event_s=(1.3, 1.4, 1.6),
    asked_output_tokens=4, input_tokens=5, output_tokens=4,
)  # fmt: skip


def test_reads() -> None:
    assert parse_slo("ttft=500ms, tpot = 50 ms").limits_s == (("ttft", 0.5), ("tpot", 0.05))
    assert parse_slo("e2e=2min,itl=.25s").limits_s == (("e2e", 120.0), ("itl", 0.25))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The part '' is none of them."),
        ("ttft", "The part 'ttft' is none of them."),
        ("ttft=1s,", "The part '' is none of them."),
        ("speed=1s", "The part 'speed=1s' is none of them."),
        ("ttft=1s,ttft=2s", "ttft stands there twice."),
        ("ttft=500", "--slo ttft is '500'; allowed: a number with a unit"),
        ("ttft=-1s", "--slo ttft is '-1s'"),
        ("ttft=fast", "--slo ttft is 'fast'"),
        ("ttft=0ms", "--slo ttft is '0ms'; allowed: more than 0."),
        ("ttft=1s;tpot=1s", "--slo ttft is '1s;tpot=1s'"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_slo(text)
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("limits", "is_met"),
    [
        ("ttft=301ms", True), ("ttft=299ms", False),
        ("tpot=101ms", True), ("tpot=99ms", False),
        ("itl=201ms", True), ("itl=199ms", False),
        ("e2e=751ms", True), ("e2e=749ms", False),
        ("ttft=1s,tpot=1s,e2e=1s", True), ("ttft=1s,tpot=1ms,e2e=1s", False),
    ],
)  # fmt: skip
def test_limits(limits: str, is_met: bool) -> None:
    assert parse_slo(limits).is_met_by(ANSWER) is is_met


def test_a_failed_request_is_never_good() -> None:
    failed = replace(ANSWER, failure=Failure("timeout", "late"))
    assert not parse_slo("ttft=9s").is_met_by(failed)
    assert not Slo(()).is_met_by(failed)


def test_an_answer_of_one_token_has_no_time_per_token_to_limit() -> None:
    short = replace(ANSWER, event_s=(1.3,), output_tokens=1)
    assert short.tpot_s is None
    assert parse_slo("tpot=1us,itl=1us").is_met_by(short)


def test_the_wait_for_a_late_client_counts() -> None:
    late = replace(ANSWER, scheduled_s=0.5)
    assert (late.send_delay_s, late.ttft_s, late.e2e_s) == (0.5, pytest.approx(0.8), 1.25)
