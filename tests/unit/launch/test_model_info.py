"""What callers are told of a model: the same however often it is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from headrace.hub.model_store import LocalModel
from headrace.launch.engine_backend import model_info


def test_created_is_when_the_file_was_written(tmp_path: Path) -> None:
    os.utime(tmp_path, (1_800_000_000, 1_700_000_000))
    info = model_info(LocalModel(tmp_path, "m", 0), 256, 64, None)
    assert (info.name, info.created) == ("m", 1_700_000_000)
