"""What tiers and routing do only where it is asked for: hedges, checks, shadows, learned choices.

In: values of a settings file. Out: frozen records, each checked by itself; whether the names in
them fit together is checked where they meet, in `routing_config`.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from headrace.core.errors import ConfigError
from headrace.core.frozen import frozen

Agreement = Literal["exact", "words"]

# They stand in names of models and in headers.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
NAME_RULE = "1 to 64 letters, digits and _ . -, a letter or digit first"


@frozen(kw_only=True)
class HedgeConfig:
    """A second backend of the tier is asked where the first one has not begun to answer in time.

    The first output of either wins, the other one is ended; both are paid. Never batches.

    Fields:
        after_percentile: when: this percentile of the backend's own times to a first token, of
            the last 10 minutes, once 20 are known.
        after_s: when, where no percentile is given or too few are known; without it such calls
            are not hedged.
        max_share: of the tier's calls are hedged at most.
        with_effects: hedge calls with tools, and those whose answer is stored, too.
    """

    after_percentile: float | None = None
    after_s: float | None = None
    max_share: float = 0.05
    with_effects: bool = False

    def __post_init__(self) -> None:
        percentile, after_s = self.after_percentile, self.after_s
        if percentile is None and after_s is None:
            raise ConfigError("hedge", "without a time", "after_percentile, after_s, or both")
        if percentile is not None and not 50 <= percentile < 100:
            raise ConfigError("hedge.after_percentile", percentile, "a number from 50 to below 100")
        if after_s is not None and not 0.001 <= after_s <= 3600:
            raise ConfigError("hedge.after_s", after_s, "a number from 0.001 to 3600")
        if not 0 < self.max_share <= 1:
            raise ConfigError("hedge.max_share", self.max_share, "a number above 0, at most 1")


@frozen(kw_only=True)
class SelfCheckConfig:
    """A model is asked whether an answer is right; where it does not say yes, it will not do.

    Fields:
        tier: who is asked; None is the tier that answered.
        question: what is asked, after the conversation and the answer; it wants yes or no.
        max_tokens: of the reply; models that reason first need more.
    """

    tier: str | None = None
    question: str = (
        "Check the answer above. Is it correct, and does it do all that was asked? "
        "Reply with one word: yes or no."
    )
    max_tokens: int = 8

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ConfigError("self_check.question", self.question, "a question")
        if not 1 <= self.max_tokens <= 100_000:
            raise ConfigError("self_check.max_tokens", self.max_tokens, "1 to 100000")


@frozen(kw_only=True)
class ShadowConfig:
    """A share of calls is asked of another tier too, afterwards, and the answers are compared.

    What comes of it is recorded and nothing else: lengths, agreement, times, costs and facts of
    the request, in files of JSON lines. Calls with tools, several answers, or in batches are none
    of it. The other answer is paid by the tenant `shadow`.

    Fields:
        use: the tier that is asked too.
        of: tiers whose answers are compared; empty is all others.
        tasks: declared tasks whose calls are compared; empty is all calls.
        share: of those calls.
        metric: `exact` is 1 where the answers are the same but for case and space, or the same
            JSON; `words` the share of words that they have in common (F1).
        max_running: how many at a time; what comes meanwhile is not compared.
        keeps_texts: whether prompts and answers are recorded too.
        retention_days: how long records are kept.
        max_bytes: of the records of a day; what is more is not kept.
        folder: where; None is `shadow` in headrace's home.
    """

    use: str
    of: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    share: float = 0.05
    metric: Agreement = "words"
    max_running: int = 2
    keeps_texts: bool = False
    retention_days: int = 30
    max_bytes: int = 64 * 1024**2
    folder: str | None = None

    def __post_init__(self) -> None:
        where = "routing.shadow"
        if not 0 < self.share <= 1:
            raise ConfigError(f"{where}.share", self.share, "a number above 0, at most 1")
        if self.metric not in get_args(Agreement):
            raise ConfigError(f"{where}.metric", self.metric, "one of exact, words")
        if not 1 <= self.max_running <= 1000:
            raise ConfigError(f"{where}.max_running", self.max_running, "1 to 1000")
        if not 1 <= self.retention_days <= 36_500:
            raise ConfigError(f"{where}.retention_days", self.retention_days, "1 to 36500")
        if not 1024 <= self.max_bytes <= 2**44:
            raise ConfigError(f"{where}.max_bytes", self.max_bytes, "1024 to 17592186044416")
        if self.use in self.of:
            raise ConfigError(f"{where}.of", self.use, "other tiers than `use`")


@frozen(kw_only=True)
class LearnedConfig:
    """A destination that tells by a small model which of two tiers a request needs.

    Fields:
        name: how tasks, rules and callers name it.
        model: the file that `headrace route fit` wrote.
        cheap, premium: the tiers.
        threshold: requests that score above it go to `premium`; None is the file's.
    """

    name: str
    model: str
    cheap: str
    premium: str
    threshold: float | None = None

    def __post_init__(self) -> None:
        where = f"routing.learned.{self.name}"
        check_name(self.name, "routing.learned")
        if self.cheap == self.premium:
            raise ConfigError(f"{where}.premium", self.premium, "another tier than `cheap`")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"{where}.threshold", self.threshold, "a number from 0 to 1")


@frozen(kw_only=True)
class SemanticConfig:
    """Answers are given again to questions that mean the same, too.

    Alike is the last message of the caller; everything else of a request has to be equal. Numbers,
    negations and names of both questions have to be the same, and no word of meaning may stand in
    place of another one.

    Fields:
        min_similarity: cosine of the questions' vectors from which on they mean the same;
            `headrace route pairs` measures what it lets through.
        encoder: the model that makes the vectors, on this machine.
        max_entries: questions that are kept.
        max_question_bytes: longer ones are not compared.
    """

    min_similarity: float
    encoder: str = "all-minilm-l6-v2"
    max_entries: int = 2000
    max_question_bytes: int = 1000

    def __post_init__(self) -> None:
        where = "routing.cache.semantic"
        if not 0.5 <= self.min_similarity <= 1:
            allowed = "a number from 0.5 to 1"
            raise ConfigError(f"{where}.min_similarity", self.min_similarity, allowed)
        if not 1 <= self.max_entries <= 1_000_000:
            raise ConfigError(f"{where}.max_entries", self.max_entries, "1 to 1000000")
        if not 1 <= self.max_question_bytes <= 100_000:
            raise ConfigError(f"{where}.max_question_bytes", self.max_question_bytes, "1 to 100000")


def check_name(name: object, where: str) -> None:
    """Raises: ConfigError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(where, name, f"names of {NAME_RULE}")
