"""Tiny models of every architecture on the C++ kernels against transformers in float32.

Shows that every architecture's ops fit together in C++: each op alone is held against numpy in
tests/kernels. Keys and values are bfloat16 there, and products of bfloat16 parts on amx.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.ops.table import make_ops
from oracle import transformers_logits
from oracle.driver import Driver, load_model
from oracle.isas import require_isa
from oracle.tiny_models import CASES, TinyModel, build, save, token_ids

RELATIVE_ERROR = 0.02
"""Root of the mean square error over the deviation of the logits. bfloat16 keys and values cost up
to 0.0094 and bfloat16 products up to 0.0125; a window off by one token costs 0.03 and more."""
MIXTURES = ("mixtral", "qwen2-moe", "qwen3-moe")
MAX_SWITCHED = 4
"""Of 75 rows of a mixture, those that may have got other experts: where two are nearly as likely, a
rounding of bfloat16 chooses between them, and such a row is far off. 1 or 2 were seen. In float32
every row is held to 1e-4, in test_huggingface_parity.py."""


@pytest.fixture(scope="module", params=CASES, ids=lambda tiny: tiny.name)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return request.param


@pytest.fixture(scope="module")
def folder(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build(tiny), tmp_path_factory.mktemp(tiny.name))


@pytest.fixture(scope="module")
def expected(tiny: TinyModel) -> np.ndarray:
    return transformers_logits.logits(build(tiny), token_ids())


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "avx512bf16", "amx"])
def test_logits_are_close_to_those_of_transformers(
    tiny: TinyModel, folder: Path, expected: np.ndarray, isa: str
) -> None:
    require_isa(isa)
    driver = Driver(load_model(folder, make_ops("cpu", isa=isa, num_threads=2)), block_size=32)
    logits = driver.run(token_ids(), [33, 1, 20])
    errors = np.sort(np.mean((logits - expected) ** 2, axis=1))
    if tiny.name in MIXTURES:
        errors = errors[:-MAX_SWITCHED]
    assert np.sqrt(errors.mean()) / expected.std() < RELATIVE_ERROR
