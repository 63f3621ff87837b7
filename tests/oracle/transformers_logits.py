"""What transformers computes in float32 for a token sequence: the oracle of every model here."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel


def logits(model: PreTrainedModel, token_ids: list[int], num_last: int = 0) -> NDArray[np.float32]:
    """Logits after every token, or after the last ones only, in one pass. Shapes: -> [T, V]."""
    with torch.inference_mode():
        ids = torch.tensor([token_ids])
        result = model(ids, use_cache=False, logits_to_keep=num_last).logits[0]
    return np.asarray(result.float().numpy())


def states(model: PreTrainedModel, token_ids: list[int]) -> NDArray[np.float32]:
    """Hidden states after the final norm, of every token. Shapes: -> [T, C]."""
    with torch.inference_mode():
        result = model.base_model(torch.tensor([token_ids]), use_cache=False).last_hidden_state[0]
    return np.asarray(result.float().numpy())
