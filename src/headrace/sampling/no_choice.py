"""NoChoice: why no token can be chosen for a request, and whether its caller can mend that.

In: the row of a request, the logits that are left of it. Out: a sentence. Limits of a caller that
leave no token are told from a model whose logits are no numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from headrace.sampling.sample_rows import SampleRow

DAMAGED = (
    "No token can be chosen: the model's logits are not numbers because its weights are damaged."
)


class NoChoice(NamedTuple):
    """`is_callers_fault`: what the request asks for leaves no token."""

    reason: str
    is_callers_fault: bool


def explain_no_choice(row: SampleRow, logits: NDArray[np.floating]) -> NoChoice:
    """Say it for a row that has no choice. Shapes: logits [V], with mask and bias in them."""
    if row.rule is not None and row.rule.error is not None:
        return NoChoice(row.rule.error, is_callers_fault=True)
    limits = _limits_of(row)
    if not limits or not np.isneginf(logits).all():
        return NoChoice(DAMAGED, is_callers_fault=False)
    at = f" as output token {1 + len(row.output_token_ids)}"
    ban, them = ("bans", "it") if len(limits) == 1 else ("together ban", "one of them")
    reason = f"No token can be chosen{at}: {_joined(limits)} {ban} every one. Loosen {them}."
    return NoChoice(reason, is_callers_fault=True)


def _limits_of(row: SampleRow) -> list[str]:
    """What a request forbids at this place, in the words of its fields."""
    sampling, form = row.sampling, row.sampling.structured_outputs
    is_early = len(row.output_token_ids) < sampling.min_tokens
    named = {
        "allowed_token_ids": row.token_mask is not None,
        "bad_words": any(True for _ in row.banned_tokens()),
        "min_tokens": is_early and bool(row.new.stop_token_ids),
        "ignore_eos": row.rule is not None and sampling.ignore_eos,
        f"the form of the answer ({form and form.param})": row.rule is not None,
    }
    return [name for name, is_there in named.items() if is_there]


def _joined(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
