"""What LoRA adapters cost: decode speed of a batch with none, with one, and with one each.

Random adapters over every linear of a model. Each round runs the same prompts without adapters,
all with the first, and each with its own, in turns; first an answer of the mixed batch must be, to
the token, the one its request gets alone. Ratios are to the batch without. Usage:

    make bench name=engine/adapters                               # the default model, rank 16
    python benchmarks/engine/adapters.py --model NAME --rank 64 --rounds 5 --record

The last line of stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from floors import RESULTS, environment
from safetensors.numpy import save_file

from headrace import LLM, SamplingParams
from headrace.config.resolve import resolve_config
from headrace.core.config import DEFAULT_MODEL
from headrace.engine.started_model import read_config
from headrace.executor.adapter_table import adapted_base
from headrace.hub.model_store import ModelStore
from headrace.models.registry import model_class
from headrace.weights.adapters import AdaptedBase
from headrace.weights.weight_reader import open_weights

MODULES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
PROMPT = "Explain in a few sentences how a river comes to its sea, and what it carries. "


def write_adapter(folder: Path, seed: int, base: AdaptedBase, rank: int) -> Path:
    """A PEFT folder over every linear that the model has apart."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(base.num_layers):
        for part, (out, width) in base.shapes.items():
            name = f"base_model.model.model.layers.{layer}.{MODULES[part]}"
            a = rng.standard_normal((rank, width), dtype=np.float32) * np.float32(width**-0.5)
            b = rng.standard_normal((out, rank), dtype=np.float32) * np.float32(0.02)
            tensors |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def run(llm: LLM, batch: int, names: list[str | None], tokens: int) -> tuple[float, list[object]]:
    """Tokens per second of decoding a batch whose requests go through `names` in turn."""
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    requests = [
        llm._request(params=params, prompt=f"{index}: {PROMPT}", lora=names[index % len(names)])
        for index in range(batch)
    ]
    answers = llm._wait(lambda: llm._run_all(requests))
    decode_s = max(each.times.decode_s for each in answers if each.times is not None)
    return batch * (tokens - 1) / decode_s, [each.completions for each in answers]


def measure(
    llm: LLM, batch: int, adapters: list[str], tokens: int, rounds: int
) -> dict[str, object]:
    """Medians per setting, and of the ratios within a round."""
    settings: dict[str, list[str | None]] = {"0": [None], "1": [adapters[0]]}
    if batch > 1:
        settings[str(len(adapters))] = list(adapters)
    _, mixed = run(llm, batch, [None, *adapters], tokens)
    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    if batch > 1:
        alone = llm.generate(f"1: {PROMPT}", params, lora=adapters[0])[0]
        if alone.completions != mixed[1]:
            raise RuntimeError("an answer of the mixed batch is not the one that it gets alone.")
    speeds: dict[str, list[float]] = {name: [] for name in settings}
    for number in range(rounds):
        order = list(settings) if number % 2 == 0 else list(reversed(settings))
        for name in order:
            speeds[name].append(run(llm, batch, settings[name], tokens)[0])
    results: dict[str, object] = {}
    for name, found in speeds.items():
        ratios = [now / plain for now, plain in zip(found, speeds["0"], strict=True)]
        row = {
            "tokens_per_s": round(statistics.median(found), 2),
            "ratio": round(statistics.median(ratios), 3),
            "range": [round(min(ratios), 3), round(max(ratios), 3)],
        }
        results[f"batch {batch}, adapters {name}"] = row
        shown = f"{row['tokens_per_s']:8.2f} tokens/s  x{row['ratio']} {row['range']}"
        print(f"batch {batch}, adapters {name}: {shown}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    args = parser.parse_args()
    local = ModelStore(resolve_config({}, os.environ).hub).pull(args.model)
    reader = open_weights(local.path)
    model = model_class(reader.architecture)
    base = adapted_base(model, read_config(model, reader), reader.architecture)
    reader.close()
    with tempfile.TemporaryDirectory() as folder:
        names = [f"adapter{number}" for number in range(args.adapters)]
        paths = [write_adapter(Path(folder) / name, i, base, args.rank)
                 for i, name in enumerate(names)]  # fmt: skip
        chosen = tuple(f"{name}={path}" for name, path in zip(names, paths, strict=True))
        with LLM(args.model, adapters=chosen, max_model_len=1024) as llm:
            begin_s = time.perf_counter()
            results: dict[str, object] = {}
            for batch in (1, 4):
                results |= measure(llm, batch, names, args.tokens, args.rounds)
            facts = llm.engine.environment
            adapter_bytes = llm.engine.capacity.adapter_bytes
    record = {
        "benchmark": "engine/adapters",
        **environment(),
        "model": args.model,
        **facts,
        "rank": args.rank,
        "adapter_bytes": adapter_bytes,
        "tokens": args.tokens,
        "seconds": round(time.perf_counter() - begin_s, 1),
        "results": results,
    }
    if args.record:
        with (RESULTS / f"{record['date']}-{record['ops']}.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
