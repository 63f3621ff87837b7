"""What an encoder's activations are planned to take."""

from __future__ import annotations

import pytest

from headrace.executor.encoder_runner import LEAST_SCRATCH_BYTES, MAX_PASS_TOKENS, scratch_bytes
from headrace.models.encoder_config import EncoderConfig
from headrace.models.roberta import Roberta


def config(width: int, num_positions: int) -> EncoderConfig:
    return Roberta.config_from_huggingface(
        {
            "num_hidden_layers": 2,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": 8,
            "vocab_size": 100,
            "max_position_embeddings": num_positions,
            "type_vocab_size": 1,
        }
    )


def test_small_encoders_take_the_least() -> None:
    assert scratch_bytes(config(384, 514), 512) == LEAST_SCRATCH_BYTES


@pytest.mark.parametrize(("num_tokens", "measured_mib"), [(2048, 52.6), (4096, 132.7)])
def test_long_inputs_are_planned_for(num_tokens: int, measured_mib: float) -> None:
    """Peaks of resident memory, of one sequence of so many tokens."""
    planned = scratch_bytes(config(512, num_tokens + 2), num_tokens) / 2**20
    assert measured_mib <= planned <= 1.5 * measured_mib


def test_a_pass_of_short_inputs_is_planned_for() -> None:
    wide = config(1024, 8194)
    assert scratch_bytes(wide, 16) == scratch_bytes(wide, MAX_PASS_TOKENS) > LEAST_SCRATCH_BYTES
