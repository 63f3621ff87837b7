"""The modules of benchmarks/peers are scripts beside each other, found by their own folder."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
