"""Tests of the CUDA path without a GPU: `make test-cuda-cpu` runs them.

Kernels run in Triton's interpreter, which is chosen before Triton is imported, for a whole process;
in others, and where Triton is missing, nothing here is collected.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
