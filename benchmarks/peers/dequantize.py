"""Write a GGUF model as a Hugging Face folder with bf16 weights, for peers that read only those.

In: a GGUF file. Out: model.safetensors, config.json and tokenizer files with the same weights as
the file, rounded to bf16. Tensors are read and named by headrace; config and tokenizer are what
transformers itself makes of the file. Runs in headrace's environment.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig

from headrace.core.errors import UnsupportedFormat
from headrace.weights.gguf import GgufReader
from headrace.weights.names import load_tensor, sources


def bf16_weights(
    reader: GgufReader, config: PretrainedConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the file under its Hugging Face name.

    Raises: UnsupportedFormat, MissingTensor.
    """
    layers = config.num_hidden_layers
    ours = sources(reader.architecture, "gguf", layers, reader.metadata)
    theirs = sources(reader.architecture, "safetensors", layers, config.to_dict())
    present = set(reader.names())
    for name, source in ours.items():
        if name in theirs and theirs[name].rows is not None:
            raise UnsupportedFormat(f"{reader.path}: fused {theirs[name].name} is not written.")
        if name in theirs and source.name in present:
            floats = load_tensor(reader, source).dequantize()
            if theirs[name].transform == "add_one":
                floats = floats - np.float32(1)
            yield theirs[name].name, torch.from_numpy(floats).to(torch.bfloat16).contiguous()


def dequantize(path: Path, folder: Path) -> None:
    """Write the folder; config.json comes last, so that a folder with it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
    reader = GgufReader(path)
    tensors = dict(bf16_weights(reader, config))
    reader.close()
    config.dtype = torch.bfloat16
    # Two tensors of one matrix, quantized apart, are two matrices.
    config.tie_word_embeddings = "lm_head.weight" not in tensors
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if (arguments.folder / "config.json").is_file():
        print(json.dumps({"folder": str(arguments.folder), "is_new": False}))
        return
    if not arguments.gguf.is_file():
        sys.exit(f"{arguments.gguf} is no file; give a GGUF model.")
    dequantize(arguments.gguf, arguments.folder)
    print(json.dumps({"folder": str(arguments.folder), "is_new": True}))


if __name__ == "__main__":
    main()
