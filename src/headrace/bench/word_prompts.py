"""Prompts of a wanted length in tokens for a server whose tokenizer is not known.

In: a target, a seed, another for the words at the front. Out: texts of random common words, and
how many tokens a word costs there: found by asking the server twice and reading its usage. What a
prompt really had is in the usage of its own answer; reports show that.
"""

from __future__ import annotations

from headrace.bench.load import Target
from headrace.bench.outcome import Hearing, RequestFailed
from headrace.bench.workload import Ask, generator
from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

# Short and common, so that most vocabularies have each as one token.
_TEXT = """
time year people way day man thing woman life child world school state family student group
country problem hand part place case week company system program question work government
number night point home water room mother area money story fact month lot right study book
eye job word business issue side kind head house service friend father power hour game line
end member law car city community name president team minute idea body information back
parent face others level office door health person art war history party result change
morning reason research girl guy moment air teacher force education
"""
WORDS = tuple(_TEXT.split())
FEW_WORDS, MANY_WORDS = 32, 96
FRESH_WORDS = 8
"""99^8 fronts: no server has the one that is drawn in its cache of prefixes."""


@frozen
class Calibration:
    """What a prompt costs at a server. Units: tokens."""

    tokens_per_word: float
    overhead_tokens: float


class WordPrompts:
    """A PromptMaker of random words. `fresh_seed` decides those at the front, so that a run with
    the same `seed` differs there alone; without it nothing does.
    """

    def __init__(self, seed: int, calibration: Calibration, fresh_seed: int | None) -> None:
        self._random = generator(seed, "prompts")
        self._fresh = None if fresh_seed is None else generator(fresh_seed, "fresh words")
        self._calibration = calibration

    def make(self, num_tokens: int) -> str:
        """See workload.PromptMaker.

        Raises: ConfigError for a prompt shorter than what the server adds to it.
        """
        known = self._calibration
        num_words = round((num_tokens - known.overhead_tokens) / known.tokens_per_word)
        if num_words < 1:
            least = round(known.overhead_tokens + known.tokens_per_word)
            hint = f"The server itself adds {known.overhead_tokens:.0f} tokens to each prompt."
            raise ConfigError("--prompt-tokens", num_tokens, f"{least} or more", hint)
        words = self._random.choices(WORDS, k=num_words)
        if self._fresh is not None:
            # The first stays: without a space before it, some words are two tokens.
            words[1 : FRESH_WORDS + 1] = self._fresh.choices(
                WORDS, k=min(FRESH_WORDS, num_words - 1)
            )
        return " ".join(words)


async def calibrate(target: Target, seed: int) -> Calibration:
    """Ask twice, for one token each, and read how many tokens the prompts had.

    These requests are a warm-up too, and show what is wrong before a load begins.
    Raises: RequestFailed.
    """
    source = generator(seed, "calibration")
    few, many = [
        await _count(target, " ".join(source.choices(WORDS, k=num_words)))
        for num_words in (FEW_WORDS, MANY_WORDS)
    ]
    tokens_per_word = (many - few) / (MANY_WORDS - FEW_WORDS)
    if tokens_per_word <= 0:
        raise RequestFailed(
            "bad_usage",
            f"usage says {few} tokens for {FEW_WORDS} words and {many} for {MANY_WORDS}",
        )
    return Calibration(tokens_per_word, max(0.0, few - FEW_WORDS * tokens_per_word))


async def warm_up(target: Target, ask: Ask) -> Hearing:
    """Make one request that is not counted.

    Raises: RequestFailed, also when the answer has no usage.
    """
    hearing = Hearing()
    await target.send(ask, hearing)
    if hearing.input_tokens is None or hearing.output_tokens is None:
        raise RequestFailed(
            "no_usage",
            "the server sends no usage with its streams, so tokens cannot be counted; it must "
            'honour "stream_options": {"include_usage": true}',
        )
    return hearing


async def _count(target: Target, text: str) -> int:
    hearing = await warm_up(target, Ask(-1, text, 1))
    return hearing.input_tokens or 0
