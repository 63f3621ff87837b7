"""Where an adapter's files are, seen before anything is loaded. Imports no arrays.

In: a path. Out: nothing, or the error that names what is missing.
"""

from __future__ import annotations

from pathlib import Path

from headrace.core.engine_config import EngineConfig, parse_adapters
from headrace.core.errors import ModelFileError, UnsupportedFormat

CONFIG_NAME, WEIGHTS_NAME = "adapter_config.json", "adapter_model.safetensors"


def check_adapters(engine: EngineConfig) -> None:
    """See that every adapter of the settings is there.

    Raises: ConfigError for what names none; as check_adapter_files.
    """
    for path in parse_adapters(engine.adapters).values():
        check_adapter_files(path)


def check_adapter_files(path: Path) -> None:
    """See that there is a PEFT folder or a file.

    Raises: ModelFileError for what is missing, UnsupportedFormat for pickled weights.
    """
    if not path.is_dir():
        if not path.is_file():
            raise ModelFileError(
                f"{path} does not exist. Give a PEFT folder ({CONFIG_NAME} and {WEIGHTS_NAME}) or "
                "a GGUF file of a LoRA adapter."
            )
        return
    if not (path / CONFIG_NAME).is_file():
        raise ModelFileError(f"{path} has no {CONFIG_NAME}, so it is no PEFT adapter.")
    if not (path / WEIGHTS_NAME).is_file():
        if (path / "adapter_model.bin").exists():
            raise UnsupportedFormat(
                f"{path} holds pickled weights, which can run code; headrace does not read them. "
                "Save the adapter as safetensors."
            )
        raise ModelFileError(f"{path} has no {WEIGHTS_NAME}.")
