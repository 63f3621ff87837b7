"""The modules of benchmarks/cuda are scripts beside each other, found by their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks" / "cuda"))
