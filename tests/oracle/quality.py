"""How far logits are from the oracle's: negative log-likelihood, KL divergence, agreement.

In: two arrays of logits over the same tokens. Out: one record. Units: nats per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEXTS = Path(__file__).parents[2] / "benchmarks" / "quality" / "texts"
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Quality:
    """Means over the tokens of a text; `max_kl` is that of the worst position."""

    num_tokens: int
    oracle_nll: float
    nll: float
    kl: float
    max_kl: float
    top1_agreement: float

    @property
    def nll_change(self) -> float:
        """Relative change of the negative log-likelihood against the oracle."""
        return self.nll / self.oracle_nll - 1


@dataclass(frozen=True)
class PerToken:
    """What is measured at each token. Shapes: [T] each; of the next token [T - 1]."""

    oracle_nll: NDArray[np.float64]
    nll: NDArray[np.float64]
    kl: NDArray[np.float64]
    is_same_best: NDArray[np.bool_]


def texts() -> dict[str, str]:
    """The fixed texts by name: prose, code, mixed languages."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(TEXTS.glob("*.txt"))}


def compare(
    oracle: NDArray[np.float32], logits: NDArray[np.float32], token_ids: Sequence[int]
) -> Quality:
    """Measure logits against the oracle's. Shapes: oracle, logits [T, V]; token_ids [T]."""
    return summarize(compare_tokens(oracle, logits, token_ids))


def summarize(found: PerToken) -> Quality:
    return Quality(
        num_tokens=len(found.kl),
        oracle_nll=float(found.oracle_nll.mean()),
        nll=float(found.nll.mean()),
        kl=float(found.kl.mean()),
        max_kl=float(found.kl.max()),
        top1_agreement=float(found.is_same_best.mean()),
    )


def joined(found: Sequence[PerToken]) -> PerToken:
    """Several windows as one."""
    parts = [[getattr(part, field.name) for part in found] for field in fields(PerToken)]
    return PerToken(*(np.concatenate(part) for part in parts))


def compare_tokens(
    oracle: NDArray[np.float32], logits: NDArray[np.float32], token_ids: Sequence[int]
) -> PerToken:
    """The same token by token. Shapes: oracle, logits [T, V]; token_ids [T]."""
    nll, oracle_nll, divergences, agreements = [], [], [], []
    for start in range(0, len(token_ids), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        p, q = log_softmax(oracle[rows]), log_softmax(logits[rows])
        following = np.asarray(token_ids[start + 1 : start + ROWS_AT_ONCE + 1])
        index = np.arange(len(following))
        oracle_nll.append(-p[index, following])
        nll.append(-q[index, following])
        divergences.append((np.exp(p) * (p - q)).sum(axis=1))
        agreements.append(p.argmax(axis=1) == q.argmax(axis=1))
    return PerToken(
        np.concatenate(oracle_nll),
        np.concatenate(nll),
        np.concatenate(divergences),
        np.concatenate(agreements),
    )


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Shapes: [T, V] -> [T, V]."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    return exact
