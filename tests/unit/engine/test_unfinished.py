"""What the next engine is given when one has ended, and what the readers see of that."""

from __future__ import annotations

from typing import Any

import pytest

from fakes.fake_clock import FakeClock
from fakes.scheduling import make_spec
from headrace.core.output import FinishReason
from headrace.core.step import RequestProgress, StepReport, TokenLogprobs
from headrace.engine.messages import Abort, Submit
from headrace.engine.unfinished import UnfinishedRequests


class Engines:
    """One engine after another, as far as their requests are concerned."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.requests = UnfinishedRequests(self.clock)
        self.given: list[str] = []

    def submit(self, *names: str, is_sent: bool = True) -> None:
        for name in names:
            self.requests.submit(Submit(make_spec(name, (1, 2, 3))), is_sent)

    def gain(
        self, name: str, *tokens: int, end: FinishReason | None = None, **more: Any
    ) -> RequestProgress:
        progress = RequestProgress(name, tokens, finish_reason=end, **more)
        (taken,) = self.requests.take(StepReport(1, (progress,))).progress
        return taken

    def die(self) -> dict[str, tuple[int, ...]]:
        """What the next engine is sent at once: names, and the tokens they bring along."""
        again = {m.spec.request_id: m.spec for m in self.requests.start_again()}
        suspect = self.requests.next_suspect()
        if suspect is not None:
            again[suspect.spec.request_id] = suspect.spec
        return {name: tuple(spec.output_token_ids) for name, spec in again.items()}

    def ended(self) -> dict[str, tuple[str | None, str | None]]:
        report = self.requests.ended()
        return {p.request_id: (p.finish_reason, p.error) for p in report.progress} if report else {}


@pytest.fixture
def engines() -> Engines:
    return Engines()


def test_answers_go_on_after_their_tokens_in_the_order_of_arrival(engines: Engines) -> None:
    engines.submit("a", "b", "c")
    engines.gain("b", 7)
    engines.gain("b", 8)
    engines.gain("c", 9, end="stop")
    assert engines.die() == {"a": (), "b": (7, 8)}
    engines.gain("b", 6)
    engines.submit("d")
    assert engines.die() == {"a": (), "b": (7, 8, 6), "d": ()}
    engines.gain("a", 1, end="length")
    engines.gain("b", 1, end="length")
    engines.gain("d", 1, end="length")
    assert len(engines.requests) == 0
    assert engines.ended() == {}


def test_scores_of_the_prompt_are_not_delivered_twice(engines: Engines) -> None:
    engines.submit("a")
    engines.gain("a", prompt_logprobs=(TokenLogprobs(2, -1.0, 1),) * 2)
    (again,) = engines.requests.start_again()
    assert again.spec.num_prompt_logprobs == 2


def test_numbers_are_those_of_the_first_engine(engines: Engines) -> None:
    engines.submit("a")
    first = engines.gain(
        "a", 1, num_cached_tokens=32, num_preemptions=1, queued_at_s=5.0, scheduled_at_s=6.0
    )
    engines.die()
    later = {"num_cached_tokens": 0, "queued_at_s": 70.0, "scheduled_at_s": 71.0}
    second = engines.gain("a", 2, num_preemptions=2, **later)
    assert second == first._replace(new_token_ids=(2,), num_preemptions=3)
    engines.die()
    third = engines.gain("a", 3, end="stop", num_preemptions=0, **later)
    assert third == second._replace(new_token_ids=(3,), finish_reason="stop")


def test_guesses_of_both_engines_are_counted(engines: Engines) -> None:
    engines.submit("a")
    engines.gain("a", 7, num_draft_tokens=5, num_accepted_tokens=2, prefill_compute_s=1.0)
    engines.die()
    now = engines.gain("a", 8, num_draft_tokens=3, num_accepted_tokens=3, prefill_compute_s=0.5)
    assert (now.num_draft_tokens, now.num_accepted_tokens) == (8, 5)
    assert now.prefill_compute_s == 1.5


def test_a_request_nothing_is_known_of_was_queued_when_it_was_sent(engines: Engines) -> None:
    engines.clock.advance(100)
    sent_at_s = engines.clock.monotonic_s()
    engines.submit("a")
    engines.clock.advance(50)
    engines.die()
    gained = engines.gain(
        "a", 1, queued_at_s=sent_at_s + 50, scheduled_at_s=sent_at_s + 51, num_cached_tokens=32
    )
    assert (gained.queued_at_s, gained.scheduled_at_s) == (sent_at_s, sent_at_s + 51)
    assert gained.num_cached_tokens == 32


def test_an_undisturbed_report_is_passed_on_as_it_is(engines: Engines) -> None:
    engines.submit("a")
    report = StepReport(4, (RequestProgress("a", (1,)), RequestProgress("unknown", (2,))))
    assert engines.requests.take(report) is report


def test_what_nobody_wants_ends_with_the_engine(engines: Engines) -> None:
    engines.submit("a", "b")
    engines.requests.abort(Abort("a"))
    engines.requests.abort(Abort("never heard of"))
    assert engines.ended() == {}  # the engine will say so
    assert engines.die() == {"b": ()}
    assert engines.ended() == {"a": ("abort", None)}
    assert engines.ended() == {}


def test_a_request_on_which_engines_end_fails_alone(engines: Engines) -> None:
    """Two engines with all of them; then the suspects one by one; none of the others is failed."""
    engines.submit("good", "bad", "slow")
    assert set(engines.die()) == {"good", "bad", "slow"}
    engines.gain("good", 1)
    assert engines.die() == {"good": (1,), "bad": ()}  # "slow" is held back until "bad" has gained
    assert engines.requests.next_suspect() is None
    engines.gain("good", 2)
    assert engines.die() == {"good": (1, 2), "slow": ()}
    assert engines.ended() == {
        "bad": ("error", "The engine ended 3 times while it ran this request.")
    }
    engines.gain("slow", 5)
    assert engines.requests.next_suspect() is None
    engines.gain("good", 3)
    assert engines.die() == {"good": (1, 2, 3), "slow": (5,)}
    assert engines.ended() == {}


def test_suspects_follow_each_other_as_they_gain(engines: Engines) -> None:
    engines.submit("a", "b", "c")
    engines.die()
    assert engines.die() == {"a": ()}
    engines.requests.abort(Abort("b"))
    assert engines.requests.next_suspect() is None
    engines.gain("a", 1)
    following = engines.requests.next_suspect()
    assert following is not None and following.spec.request_id == "c"
    assert engines.ended() == {"b": ("abort", None)}


def test_who_never_met_the_engine_is_not_suspected(engines: Engines) -> None:
    engines.submit("a", is_sent=False)
    for _ in range(2):
        assert engines.die() == {"a": ()}
    assert engines.die() == {"a": ()}  # as the only suspect, after two that it did meet
    assert engines.die() == {}
    assert engines.ended()["a"][0] == "error"
