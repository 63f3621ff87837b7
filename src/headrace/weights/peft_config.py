"""What adapter_config.json of a PEFT folder says of a LoRA adapter: how much it adds, and to what.

In: the parsed file. Out: the scale of a module's product; the base it names. Whatever changes the
sums in another way than adding one product of two matrices is refused here, with its key.
Source: huggingface/peft, src/peft/tuners/lora/config.py, layer.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace.core.errors import ModelFileError, UnsupportedFormat
from headrace.core.frozen import frozen

# Truthy, each of these makes another model than base plus product.
_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA scales the sums of the base",
    "lora_bias": "its products have biases",
    "modules_to_save": "it brings whole modules in place of the base's",
    "layer_replication": "it runs layers of the base several times",
    "trainable_token_indices": "it changes rows of the embedding",
    "target_parameters": "it adds to tensors that are no linears",
    "alora_invocation_tokens": "it is there from certain tokens on only (aLoRA)",
    "fan_in_fan_out": "its base keeps matrices the other way round",
    "use_qalora": "it reads sums of inputs (QA-LoRA)",
    "use_bdlora": "its matrices are block-diagonal (BD-LoRA)",
    "arrow_config": "it routes between adapters (Arrow)",
}
# These starts take something off the base, which the files of the adapter do not have.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq")
_PLAIN_KEY = re.compile(r"\^?[\w.-]+")


@frozen
class PeftConfig:
    """The numbers that scale products. `alphas` are those of certain modules, by their ends.

    `rank` is that of every module; None where it differs or is not said.
    """

    alpha: float
    alphas: Mapping[str, float]
    has_root_scale: bool
    base_name: str
    rank: int | None = None

    def scale(self, module: str, rank: int) -> float:
        """What multiplies b a x of a module, `model.layers.0.mlp.up_proj` for example.

        Source: arXiv 2106.09685, section 4.1; with the root, arXiv 2312.03732.
        """
        alpha = self.alpha
        for key, value in self.alphas.items():
            plain = key.removeprefix("^")
            is_end = not key.startswith("^") and module.endswith("." + plain)
            if module == plain or is_end:
                alpha = value
                break
        return alpha / (math.sqrt(rank) if self.has_root_scale else rank)


def read_peft_config(path: Path, config: Mapping[str, Any]) -> PeftConfig:
    """Raises: UnsupportedFormat for what is no plain LoRA, ModelFileError for values that are none.

    `path` is the folder, for errors.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedFormat(f"{path} is a PEFT adapter of type {kind!r}; headrace reads LORA.")
    for key, why in _REFUSED.items():
        if config.get(key):
            raise UnsupportedFormat(
                f"{path}: adapter_config.json has {key} = {_shown(config[key])}: {why}, which "
                "headrace does not run. Merge the adapter into its base instead."
            )
    if config.get("bias", "none") != "none":
        raise UnsupportedFormat(
            f"{path}: adapter_config.json has bias = {_shown(config['bias'])}; headrace reads "
            "adapters without biases ('none')."
        )
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGED_BASE):
        raise UnsupportedFormat(
            f"{path}: adapter_config.json has init_lora_weights = {start!r}, which also changes "
            "the base. Convert it to a plain LoRA (path_initial_model_for_weight_conversion)."
        )
    return PeftConfig(
        alpha=_number(path, config, "lora_alpha"),
        alphas=_patterns(path, config.get("alpha_pattern") or {}),
        has_root_scale=bool(config.get("use_rslora")),
        base_name=str(config.get("base_model_name_or_path") or ""),
        rank=None if config.get("rank_pattern") or "r" not in config else _rank(path, config),
    )


def _rank(path: Path, config: Mapping[str, Any]) -> int:
    value = _number(path, config, "r")
    if value < 1 or value != int(value):
        raise ModelFileError(
            f"{path}: adapter_config.json has r = {_shown(config['r'])}; allowed: a whole number."
        )
    return int(value)


def _number(path: Path, config: Mapping[str, Any], key: str) -> float:
    value = config.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):  # type: ignore[arg-type]
        raise ModelFileError(
            f"{path}: adapter_config.json has {key} = {_shown(value)}; allowed: a number."
        )
    return float(value)  # type: ignore[arg-type]


def _patterns(path: Path, patterns: object) -> dict[str, float]:
    """Only names: a pattern of a file may be one that a regular expression never ends on."""
    if not isinstance(patterns, Mapping):
        raise ModelFileError(f"{path}: alpha_pattern of adapter_config.json must be an object.")
    for key in patterns:
        if not _PLAIN_KEY.fullmatch(key):
            raise UnsupportedFormat(
                f"{path}: adapter_config.json has the alpha_pattern {_shown(key)}; headrace reads "
                "names and ends of names there, no regular expressions."
            )
    return {key: _number(path, patterns, key) for key in patterns}


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
