"""The runner of a step, over a real tiny model in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fakes.byte_tokenizer import byte_tokenizer
from headrace.core.request import SamplingParams
from headrace.core.step import NewRequest, RowOutput, ScheduledRequest, SchedulerOutput
from headrace.core.structured_outputs import StructuredOutputs
from headrace.executor.model_runner import ModelRunner
from headrace.models.llama import Llama
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.sampling.logits_rule import LogitsRules
from oracle import transformers_logits
from oracle.driver import load_model
from oracle.tiny_models import build, case, save, token_ids

LOGPROBS = 1e-4
"""Float32 sums in another order."""
PROMPT = token_ids(20)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Llama:
    folder = save(build(case("qwen2")), tmp_path_factory.mktemp("model"))
    return load_model(folder, ReferenceOps(np.float32))


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """Log-probabilities after each token of PROMPT, by transformers. Shapes: [20, V]."""
    logits = transformers_logits.logits(build(case("qwen2")), PROMPT).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def new(name: str, **sampling: Any) -> NewRequest:
    stop_token_ids = sampling.pop("stop_token_ids", ())
    return NewRequest(name, PROMPT, SamplingParams(**sampling), 3, stop_token_ids)


def piece(
    name: str, start: int, stop: int, num_logit_rows: int, is_sampled: bool = True, block: int = 0
) -> ScheduledRequest:
    ids = [2 * block, 2 * block + 1]
    return ScheduledRequest(name, PROMPT[start:stop], start, ids, num_logit_rows, is_sampled)


def run(runner: ModelRunner, *scheduled: ScheduledRequest, new_requests: Any = ()) -> Any:
    runner.submit(SchedulerOutput(1, tuple(scheduled), tuple(new_requests)))
    return runner.collect().rows


def make_runner(model: Llama, rules: LogitsRules | None = None) -> ModelRunner:
    cache = model.ops.allocate_kv(model.config.attention, num_blocks=8, block_size=16)
    return ModelRunner(model, cache, model.ops, rules=rules)


def test_greedy_takes_the_best_and_logprobs_are_the_models_own(
    model: Llama, expected: np.ndarray
) -> None:
    request = new("a", temperature=0.0, logprobs=4, logit_bias={5: 100.0})
    row = run(make_runner(model), piece("a", 0, 20, 1), new_requests=[request])["a"]
    assert row.token_ids == (5,)  # the bias chooses; the logprobs do not know of it
    (record,) = row.logprobs
    best = np.argsort(-expected[19])[:4]
    assert record.top_token_ids == tuple(best.tolist())
    np.testing.assert_allclose(record.top_logprobs, expected[19][best], atol=LOGPROBS)
    assert record.logprob == pytest.approx(expected[19][5], abs=LOGPROBS)
    assert record.rank == 1 + int((expected[19] > expected[19][5]).sum())


def test_prompt_logprobs_over_two_chunks(model: Llama, expected: np.ndarray) -> None:
    runner = make_runner(model)
    request = new("a", temperature=0.0, prompt_logprobs=0)
    first = run(runner, piece("a", 0, 9, 9, is_sampled=False), new_requests=[request])["a"]
    assert first.token_ids == ()
    second = run(runner, piece("a", 9, 20, 11))["a"]
    records = first.prompt_logprobs + second.prompt_logprobs
    assert [record.token_id for record in records] == PROMPT[1:]
    wanted = expected[np.arange(19), PROMPT[1:]]
    np.testing.assert_allclose([r.logprob for r in records], wanted, atol=LOGPROBS)
    assert second.token_ids == (int(expected[19].argmax()),)
    assert second.logprobs == ()


def test_more_rows_than_are_scored_at_once(model: Llama) -> None:
    requests = [new(f"r{i}", temperature=0.0, prompt_logprobs=1) for i in range(4)]
    pieces = [piece(f"r{i}", 0, 20, 20, block=i) for i in range(4)]  # 80 rows, 64 at a time
    rows = run(make_runner(model), *pieces, new_requests=requests)
    assert rows["r3"] == rows["r0"]
    assert len(rows["r3"].prompt_logprobs) == 19


def test_a_request_that_bans_everything_ends_alone(model: Llama) -> None:
    banned = new("bad", allowed_token_ids=[9], min_tokens=1, stop_token_ids=(9,), logprobs=1)
    good = new("good", temperature=0.0, logprobs=1)
    runner = make_runner(model)
    rows = run(
        runner,
        piece("bad", 0, 20, 1),
        piece("good", 0, 20, 1, block=1),
        new_requests=[banned, good],
    )
    assert rows["bad"].token_ids == rows["bad"].logprobs == ()
    assert rows["bad"].error == (
        "No token can be chosen as output token 1: allowed_token_ids and min_tokens together ban "
        "every one. Loosen one of them."
    )
    assert rows["bad"].is_callers_fault
    assert rows["good"].error is None
    own = run(make_runner(model), piece("good", 0, 20, 1), new_requests=[good])["good"]
    assert rows["good"].token_ids == own.token_ids
    assert rows["good"].logprobs[0].logprob == pytest.approx(own.logprobs[0].logprob, abs=LOGPROBS)


def test_every_row_without_a_choice(model: Llama) -> None:
    banned = new("bad", allowed_token_ids=[9], min_tokens=1, stop_token_ids=(9,))
    rows = run(make_runner(model), piece("bad", 0, 20, 1), new_requests=[banned])
    assert rows == {"bad": RowOutput(error=rows["bad"].error, is_callers_fault=True)}


def test_damaged_logits_fail_their_request_only(model: Llama) -> None:
    runner = make_runner(model)
    request, other = new("a", prompt_logprobs=0), new("b", temperature=0.0, prompt_logprobs=0)
    runner.submit(SchedulerOutput(1, (piece("a", 0, 16, 0, is_sampled=False),), (request,)))
    runner.collect()
    runner.cache.layers[1].k.data[0] = np.nan
    rows = run(runner, piece("a", 16, 20, 1), piece("b", 0, 20, 20, block=2), new_requests=[other])
    assert "weights are damaged" in (rows["a"].error or "")
    assert not rows["a"].is_callers_fault
    assert rows["b"].error is None
    assert len(rows["b"].prompt_logprobs) == 19


def test_damaged_logits_are_not_blamed_on_limits_that_leave_tokens(model: Llama) -> None:
    runner = make_runner(model)
    request = new("a", allowed_token_ids=[7, 9], prompt_logprobs=0)
    runner.submit(SchedulerOutput(1, (piece("a", 0, 16, 0, is_sampled=False),), (request,)))
    runner.collect()
    runner.cache.layers[1].k.data[0] = np.nan
    row = run(runner, piece("a", 16, 20, 1))["a"]
    assert "weights are damaged" in (row.error or "")
    assert not row.is_callers_fault


def test_words_that_ban_the_only_token_left_are_named_where_they_do(model: Llama) -> None:
    request = NewRequest("a", PROMPT, SamplingParams(allowed_token_ids=[9]), 3, (), [(9, 9)])
    runner = make_runner(model)
    first = run(runner, piece("a", 0, 20, 1), new_requests=[request])["a"]
    assert (first.token_ids, first.error) == ((9,), None)
    second = run(runner, ScheduledRequest("a", [9], 20, [0, 1], 1, True))["a"]
    assert second.error == (
        "No token can be chosen as output token 2: allowed_token_ids and bad_words together ban "
        "every one. Loosen one of them."
    )
    assert second.is_callers_fault


def test_finished_requests_are_forgotten(model: Llama) -> None:
    runner = make_runner(model)
    run(runner, piece("a", 0, 20, 1), new_requests=[new("a")])
    runner.submit(SchedulerOutput(2, (), (), ("a", "unknown")))
    assert runner.collect().rows == {}
    with pytest.raises(KeyError):
        runner.submit(SchedulerOutput(3, (piece("a", 0, 20, 1),)))


def test_results_come_in_the_order_of_steps(model: Llama) -> None:
    runner = make_runner(model)
    for step_id in (4, 5):
        runner.submit(SchedulerOutput(step_id, ()))
    assert [runner.collect().step_id for _ in range(2)] == [4, 5]


def test_a_form_completes_an_answer_and_leaves_others_alone(model: Llama) -> None:
    rules = LogitsRules(byte_tokenizer, model.config.vocab_size)
    form = StructuredOutputs(choice=["ab", "ac"])
    runner = make_runner(model, rules)
    bound = new("bound", temperature=1.0, structured_outputs=form, logprobs=2)
    free = new("free", temperature=1.0, logprobs=2)
    pieces = (piece("bound", 0, 20, 1), piece("free", 0, 20, 1, block=1))
    first = run(runner, *pieces, new_requests=[bound, free])
    assert (first["bound"].token_ids, first["bound"].is_complete) == ((ord("a"),), False)
    row = ScheduledRequest("bound", [ord("a")], 20, [0, 1], 1, True)
    second = run(runner, row)["bound"]
    assert second.token_ids[0] in b"bc"
    assert second.is_complete
    (own,) = run(make_runner(model), piece("free", 0, 20, 1), new_requests=[free]).values()
    assert first["free"].token_ids == own.token_ids
    assert not first["free"].is_complete
    # log-probabilities are the model's own: the mask is not in them
    assert first["bound"].logprobs[0].top_logprobs == first["free"].logprobs[0].top_logprobs


def test_a_form_that_other_rules_leave_nothing_of_ends_its_request_alone(model: Llama) -> None:
    rules = LogitsRules(byte_tokenizer, model.config.vocab_size)
    form = StructuredOutputs(choice=["ab"])
    bound = new("bound", allowed_token_ids=[9], structured_outputs=form)
    broken = new("broken", structured_outputs=StructuredOutputs(regex="("))
    free = new("free", temperature=0.0)
    pieces = [piece(name, 0, 20, 1, block=i) for i, name in enumerate(("bound", "broken", "free"))]
    rows = run(make_runner(model, rules), *pieces, new_requests=[bound, broken, free])
    assert rows["bound"].error == (
        "No token can be chosen as output token 1: allowed_token_ids and the form of the answer "
        "(structured_outputs.choice) together ban every one. Loosen one of them."
    )
    assert "structured_outputs.regex cannot be enforced" in (rows["broken"].error or "")
    assert all(rows[name].is_callers_fault for name in ("bound", "broken"))
    assert rows["free"].error is None
