"""ONNX Runtime's CPU provider: `run_onnxruntime.py FOLDER THREADS MAX_TOKENS MODEL.onnx`.

All graph optimizations, the tokenizers library with padding to the longest of a batch, the mean
over the mask, length 1; texts sorted by length within a call.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer
from worker import serve

folder, threads, max_tokens, model = sys.argv[1:5]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(threads)
options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
tokenizer.enable_truncation(int(max_tokens))
tokenizer.enable_padding()
TEXTS_AT_ONCE = 32


def embed(texts):  # type: ignore[no-untyped-def]
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    rows = []
    for at in range(0, len(order), TEXTS_AT_ONCE):
        encoded = tokenizer.encode_batch_fast([texts[i] for i in order[at : at + TEXTS_AT_ONCE]])
        ids = np.array([each.ids for each in encoded], np.int64)
        mask = np.array([each.attention_mask for each in encoded], np.int64)
        (states,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        weights = mask[:, :, None].astype(np.float32)
        mean = (states * weights).sum(1) / weights.sum(1)
        rows.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    out = np.concatenate(rows)
    out[order] = out.copy()
    return out


serve(embed, {"version": f"onnxruntime {onnxruntime.__version__}"})
