"""Rejection keeps the target's distribution in the engine, and the bits of what is repeatable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

from consistency.drafting import drafted, num_drafted
from headrace.core.request import SamplingParams
from headrace.models.llama import Llama
from oracle.engine_driver import Answer, Asked, EngineDriver, Setting
from oracle.isas import supported_isas
from oracle.tiny_models import token_ids

PROMPT = tuple(token_ids(20))
ALLOWED = (17, 40)
END = 40
NUM_TOKENS = 6
NUM_ANSWERS = 450
DRAWN = SamplingParams(temperature=1.0, allowed_token_ids=list(ALLOWED), ignore_eos=True)


@pytest.fixture(scope="module")
def best(tiny: Callable[..., Llama]) -> Llama:
    if not supported_isas():
        pytest.skip("the C++ extension is not built")
    return tiny("qwen2-wide", supported_isas()[-1], 1)


@pytest.fixture(scope="module")
def other(tiny: Callable[..., Llama]) -> Llama:
    """A model that knows nothing of the target."""
    return tiny("gemma3-small", supported_isas()[-1], 1)


def asked(sampling: SamplingParams, count: int = NUM_ANSWERS) -> list[Asked]:
    return [
        Asked(f"r{seed}", PROMPT, sampling, max_tokens=NUM_TOKENS, seed=seed)
        for seed in range(count)
    ]


def run(model: Llama, draft: Llama, requests: list[Asked], **how: bool) -> dict[str, Answer]:
    setting = drafted(Setting(max_num_seqs=3), draft, **how)
    return EngineDriver(model, setting).generate(requests)


def chances(model: Llama, ending: tuple[int, ...] = ()) -> dict[tuple[int, ...], float]:
    """Of every answer: the model's own log-probabilities, among the tokens that are allowed."""
    whole = list(product(ALLOWED, repeat=NUM_TOKENS))
    scored = SamplingParams(temperature=0.0, prompt_logprobs=0)
    requests = [Asked(f"{at}", PROMPT + ids, scored, max_tokens=1) for at, ids in enumerate(whole)]
    answers = EngineDriver(model, Setting()).generate(requests)
    raw = {}
    for at, ids in enumerate(whole):
        scores = answers[f"{at}"].prompt_logprobs[-NUM_TOKENS:]
        for place, score in enumerate(scores, 1):
            raw[ids[:place]] = np.exp(score.logprob)
    found: dict[tuple[int, ...], float] = Counter()
    for ids in whole:
        chance, known = 1.0, ()
        for token_id in ids:
            chance *= raw[(*known, token_id)] / sum(raw[(*known, each)] for each in ALLOWED)
            known = (*known, token_id)
            if token_id in ending:
                break
        found[known] = chance
    return found


def assert_fair(answers: dict[str, Answer], expected: dict[tuple[int, ...], float]) -> None:
    """Chi-square; what is expected less than five times is one class."""
    counts = Counter(tuple(answer.token_ids) for answer in answers.values())
    assert set(counts) <= set(expected)
    assert sum(expected.values()) == pytest.approx(1)
    classes: dict[tuple[int, ...], list[float]] = {}
    for ids, chance in expected.items():
        rare = chance * len(answers) < 5
        entry = classes.setdefault(() if rare else ids, [0.0, 0.0])
        entry[0] += counts[ids]
        entry[1] += chance * len(answers)
    value = sum((seen - wanted) ** 2 / wanted for seen, wanted in classes.values())
    degrees = len(classes) - 1
    share = 2 / (9 * degrees)
    assert degrees >= 8
    # One in 10,000 fair experiments: Wilson and Hilferty.
    assert value < degrees * (1 - share + 3.72 * share**0.5) ** 3


def test_answers_have_the_targets_distribution_and_more_guesses_are_kept(
    best: Llama, other: Llama
) -> None:
    """Guesses right and wrong, of one token and of several, in steps of several requests."""
    answers = run(best, other, asked(DRAWN), is_rejecting=True)
    assert_fair(answers, chances(best))
    num_drafts, num_accepted = num_drafted(answers)
    assert num_drafts > NUM_ANSWERS
    assert 0.1 < num_accepted / num_drafts < 0.95
    plain = num_drafted(run(best, other, asked(DRAWN, NUM_ANSWERS // 2)))
    assert num_accepted / num_drafts > plain[1] / plain[0]


def test_a_guess_that_ends_the_answer_counts_as_well(best: Llama, other: Llama) -> None:
    """It is not computed, because nothing follows it; to leave it out would favour others."""
    ending = SamplingParams(
        temperature=1.0, allowed_token_ids=list(ALLOWED), stop_token_ids=[END], min_tokens=0
    )
    answers = run(best, other, asked(ending), is_rejecting=True)
    counts = Counter(len(answer.token_ids) for answer in answers.values())
    expected: Counter[int] = Counter()
    for ids, chance in chances(best, (END,)).items():
        expected[len(ids)] += chance * NUM_ANSWERS  # type: ignore[assignment]
    value = sum((counts[size] - wanted) ** 2 / wanted for size, wanted in expected.items())
    assert value < 25.7  # one in 10,000, of five degrees of freedom
    assert num_drafted(answers)[0] > 0


def test_greedy_and_seeded_answers_keep_their_bits(best: Llama, other: Llama) -> None:
    fixed = [
        SamplingParams(temperature=0.0, logprobs=2),
        SamplingParams(temperature=1.0, seed=5, logprobs=0),
        SamplingParams(temperature=0.8, seed=6, top_p=0.9, frequency_penalty=0.5),
    ]
    drawn = SamplingParams(temperature=1.0)
    requests = [
        Asked(f"r{i}", tuple(token_ids(20 + i)), fixed[i % 3], max_tokens=30, seed=i)
        for i in range(6)
    ]
    beside = [Asked(f"d{i}", PROMPT, drawn, max_tokens=30, seed=i) for i in range(2)]
    answers = run(best, other, [*requests, *beside], is_rejecting=True)
    alone = EngineDriver(best, Setting(has_prefix_cache=False)).generate(requests)
    assert {each.name: answers[each.name] for each in requests} == alone
    assert num_drafted(answers)[0] > 10


def test_equal_steps_give_equal_answers(best: Llama, other: Llama) -> None:
    """All noise is a function of seed and position: a seed that is drawn is enough to repeat what
    was guessed in the same way."""
    drawn = SamplingParams(temperature=1.0, seed=3, is_seed_drawn=True)
    requests = asked(drawn, 12)
    once, again = (run(best, other, requests, is_rejecting=True) for _ in range(2))
    assert once == again
    plain = EngineDriver(best, Setting()).generate(requests)
    assert any(plain[each.name] != once[each.name] for each in requests)


def test_a_model_that_drafts_for_itself_is_always_right(best: Llama) -> None:
    answers = run(best, best, asked(DRAWN, 12), is_rejecting=True)
    num_drafts, num_accepted = num_drafted(answers)
    assert num_drafts == num_accepted > 12


def test_preempted_answers_keep_the_distribution(best: Llama, other: Llama) -> None:
    """What was drawn for a place is settled when the place is computed again."""
    setting = Setting(num_blocks=4, max_num_seqs=3, has_prefix_cache=False)
    long = tuple(token_ids(29))
    requests = [
        Asked(f"r{seed}", long, DRAWN, max_tokens=NUM_TOKENS, seed=seed) for seed in range(30)
    ]
    driver = EngineDriver(best, drafted(setting, other, is_rejecting=True))
    answers = driver.generate(requests)
    assert sum(answer.num_preemptions for answer in answers.values()) > 0
    assert all(len(answer.token_ids) == NUM_TOKENS for answer in answers.values())


@pytest.mark.parametrize("temperature", [1e-40, 1e-6])
def test_next_to_no_temperature_is_none(best: Llama, other: Llama, temperature: float) -> None:
    """One over it is more than a float can be, and nothing is drawn for such a request."""
    greedy, drawn = (SamplingParams(temperature=each) for each in (0.0, temperature))
    answers = run(best, best, [Asked("r", PROMPT, drawn, max_tokens=20)], is_rejecting=True)
    alone = EngineDriver(best, Setting()).generate([Asked("r", PROMPT, greedy, max_tokens=20)])
    assert answers == alone
    assert num_drafted(answers)[0] > 0
