"""LoRA against peft itself: the folders that it wrote, the logits that it computed with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from headrace.core.errors import UnsupportedFormat
from headrace.ops.reference.reference_ops import ReferenceOps
from headrace.weights.peft_config import read_peft_config
from oracle import transformers_logits
from oracle.adapted_driver import AdaptedDriver
from oracle.peft_cases import CASES, NUM_TOKENS, REFUSED, PeftCase, RefusedCase, base_model
from oracle.tiny_models import save, token_ids

FLOAT32_LOGITS = 2e-4
"""Float32 sums in other orders."""


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_logits_are_those_of_peft(each: PeftCase, tmp_path: Path) -> None:
    base = base_model(each.base)
    driver = AdaptedDriver(save(base, tmp_path), ReferenceOps(np.float32), each.folder, each.base)
    actual = driver.run(token_ids(NUM_TOKENS), [17, 1])
    np.testing.assert_allclose(actual, each.expected(), atol=FLOAT32_LOGITS)
    plain = transformers_logits.logits(base, token_ids(NUM_TOKENS))
    assert np.abs(plain - each.expected()).max() > 1000 * FLOAT32_LOGITS


@pytest.mark.parametrize("each", REFUSED, ids=lambda each: each.name)
def test_what_peft_can_and_headrace_cannot_is_refused_by_name(each: RefusedCase) -> None:
    config = json.loads(each.file.read_text())
    assert config["peft_type"] == "LORA"
    with pytest.raises(UnsupportedFormat, match=each.name):
        read_peft_config(each.file, config)
