"""What sentence-transformers runs: `run_transformers.py FOLDER THREADS DTYPE MAX_TOKENS`.

transformers' fast tokenizer with padding to the longest, BertModel with torch's own attention, the
mean over the mask, length 1. Texts are sorted by length within a call, as sentence-transformers
does. bf16 are weights in bf16, which is faster than autocast.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import transformers
from transformers import AutoTokenizer, BertModel
from worker import serve

folder, threads, dtype, max_tokens = sys.argv[1:5]
torch.set_num_threads(int(threads))
tokenizer = AutoTokenizer.from_pretrained(folder)
kind = torch.bfloat16 if dtype == "bf16" else torch.float32
model = BertModel.from_pretrained(folder, dtype=kind, attn_implementation="sdpa").eval()
TEXTS_AT_ONCE = 32  # the default of SentenceTransformer.encode


@torch.inference_mode()
def embed(texts):  # type: ignore[no-untyped-def]
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    out = np.empty((len(texts), model.config.hidden_size), np.float32)
    for at in range(0, len(order), TEXTS_AT_ONCE):
        chosen = order[at : at + TEXTS_AT_ONCE]
        batch = tokenizer(
            [texts[index] for index in chosen],
            padding=True,
            truncation=True,
            max_length=int(max_tokens),
            return_tensors="pt",
        )
        states = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1).float()
        mean = (states * mask).sum(1) / mask.sum(1)
        out[chosen] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return out


serve(embed, {"version": f"transformers {transformers.__version__}, torch {torch.__version__}"})
