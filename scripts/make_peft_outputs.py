"""Write tests/golden/peft: adapters as peft saves them, and the logits that it computes with them.

Needs `pip install peft`, which nothing else here does. The cases are in tests/oracle/peft_cases.py;
`tests/models/test_peft_parity.py` compares them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from oracle import transformers_logits  # noqa: E402
from oracle.peft_cases import CASES, NUM_TOKENS, REFUSED, PeftCase, base_model  # noqa: E402
from oracle.tiny_models import token_ids  # noqa: E402


def main() -> None:
    """Write all cases anew."""
    shutil.rmtree(CASES[0].folder.parent, ignore_errors=True)
    for seed, each in enumerate(CASES):
        write(each, seed)
    REFUSED[0].file.parent.mkdir(parents=True)
    for refused in REFUSED:
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], **refused.config)
        text = json.dumps(plain(config.to_dict()), indent=1, sort_keys=True)
        refused.file.write_text(text + "\n")
    print(f"peft {peft.__version__}: {len(CASES)} adapters, {len(REFUSED)} that are refused")


def write(each: PeftCase, seed: int) -> None:
    """One adapter, its matrices drawn so that they change what the model says."""
    base = base_model(each.base)
    config = peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **each.config)
    model = peft.get_peft_model(base, config, autocast_adapter_dtype=False).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if ".lora_" not in name:
                continue
            spread = 0.3 if ".lora_B." in name else parameter.shape[-1] ** -0.5
            drawn = torch.randn(parameter.shape, generator=generator) * spread
            parameter.copy_(drawn.to(each.dtype).float())
    model.save_pretrained(each.folder)
    (each.folder / "README.md").unlink(missing_ok=True)
    weights = each.folder / "adapter_model.safetensors"
    tensors = {name: value.to(each.dtype) for name, value in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    logits = transformers_logits.logits(model, token_ids(NUM_TOKENS))
    np.save(each.folder / "logits.npy", logits)


def plain(value: object) -> object:
    """Sets as lists, and keys that JSON knows."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, set | list | tuple):
        return sorted(map(plain, value), key=str) if isinstance(value, set) else list(value)
    return value if isinstance(value, bool | int | float | str | None) else str(value)


if __name__ == "__main__":
    main()
