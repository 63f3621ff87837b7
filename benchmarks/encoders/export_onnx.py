"""Write a BertModel as ONNX: `export_onnx.py FOLDER OUT PACKAGES`, in transformers' environment.

PACKAGES is where the onnx package lies, which that environment has not.
"""

from __future__ import annotations

import sys

import torch
from transformers import BertModel

folder, out, packages = sys.argv[1:4]
sys.path.append(packages)


class States(torch.nn.Module):
    """The states of the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = BertModel.from_pretrained(folder, attn_implementation="eager").eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return states


axes = {0: "texts", 1: "tokens"}
ids = torch.ones(2, 7, dtype=torch.long)
with torch.no_grad():
    torch.onnx.export(
        States(),
        (ids, ids),
        out,
        input_names=["input_ids", "attention_mask"],
        output_names=["states"],
        dynamic_axes=dict.fromkeys(("input_ids", "attention_mask", "states"), axes),
        dynamo=False,
        opset_version=17,
    )
