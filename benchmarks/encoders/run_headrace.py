"""headrace.Embedder: `run_headrace.py FOLDER THREADS DTYPE`."""

from __future__ import annotations

import sys

from worker import serve

from headrace import Embedder
from headrace.core.version import headrace_version

folder, threads, dtype = sys.argv[1:4]
embedder = Embedder(folder, num_threads=int(threads), encoder_dtype=dtype)
serve(
    lambda texts: embedder.embed(list(texts), truncate_prompt_tokens=-1),
    {"version": headrace_version(), "kernels": embedder._encoder.ops_name},  # type: ignore[union-attr]
)
