"""Texts per second of an encoder: headrace, ONNX Runtime and transformers, turn by turn.

Every engine is a process of its own that has loaded the same folder and waits. In each round each
of them embeds the same texts once, end to end (tokenizing, padding, pooling), so that all see the
same minutes of the machine. Before that every engine's vectors are compared with transformers in
float32. Peers are installed once below build/peers. The last line is one JSON object.

    python benchmarks/encoders/throughput.py [--model NAME] [--rounds 3] [--threads 2]
        [--sets short mixed] [--record]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace.config.resolve import resolve_config
from headrace.hub.model_store import ModelStore

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PEERS = ROOT / "build" / "peers"
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = {
    "transformers": ("torch==2.13.0", "transformers==5.19.0"),
    "onnxruntime": ("onnxruntime==1.32.0", "onnx==1.23.2", "tokenizers", "numpy"),
}
MAX_TOKENS = 256
SETS = {"short": (12, 512), "medium": (60, 192), "long": (190, 48), "mixed": (0, 192)}
"""Words of a text, and texts. Mixed: 3 to 150 words, as documents come."""
WORDS = [
    "the",
    "a",
    "of",
    "to",
    "in",
    "is",
    "for",
    "on",
    "with",
    "that",
    "by",
    "this",
    "as",
    "from",
    "at",
    "it",
    "an",
    "be",
    "are",
    "was",
    "which",
    "or",
    "not",
    "can",
    "have",
    "when",
    "server",
    "reads",
    "text",
    "into",
    "vectors",
    "and",
    "compares",
    "them",
    "quickly",
    "because",
    "memory",
    "moves",
    "slowly",
    "rain",
    "falls",
    "over",
    "mountain",
    "village",
    "while",
    "people",
    "walk",
    "home",
    "through",
    "narrow",
    "streets",
    "carrying",
    "bread",
]
COSINE = {"f32": 1 - 1e-6, "bf16": 1 - 1e-3, "q8_0": 1 - 2e-3}


@dataclass(frozen=True, slots=True)
class Engine:
    """A process: its name in the table, its dtype, its command."""

    name: str
    dtype: str
    command: tuple[str, ...]


def engines(folder: Path, threads: int) -> list[Engine]:
    """All that are compared."""
    count, tokens = str(threads), str(MAX_TOKENS)
    onnx = str(export(folder))
    ours = (sys.executable, str(HERE / "run_headrace.py"), str(folder), count)
    torch_python = str(PEERS / "transformers" / "bin" / "python")
    torchs = (torch_python, str(HERE / "run_transformers.py"), str(folder), count)
    ort_python = str(PEERS / "onnxruntime" / "bin" / "python")
    orts = (ort_python, str(HERE / "run_onnxruntime.py"), str(folder), count)
    return [
        Engine("headrace", "f32", (*ours, "f32")),
        Engine("headrace", "bf16", (*ours, "bf16")),
        Engine("headrace", "q8_0", (*ours, "q8_0")),
        Engine("onnxruntime", "f32", (*orts, tokens, onnx)),
        Engine("transformers", "f32", (*torchs, "f32", tokens)),
        Engine("transformers", "bf16", (*torchs, "bf16", tokens)),
    ]


def install(name: str) -> Path:
    """An environment below build/peers. Returns its packages."""
    home = PEERS / name
    if not (home / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "-q", *PACKAGES[name]], check=True)
    return next((home / "lib").glob("python*")) / "site-packages"


def export(folder: Path) -> Path:
    """The model as ONNX, written once."""
    out = PEERS / "models" / f"{folder.name}.onnx"
    packages = {name: install(name) for name in PACKAGES}
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        python = str(PEERS / "transformers" / "bin" / "python")
        command = [python, str(HERE / "export_onnx.py"), str(folder), str(out)]
        subprocess.run([*command, str(packages["onnxruntime"])], check=True)
    return out


class Worker:
    """A running engine."""

    def __init__(self, engine: Engine, process: subprocess.Popen[str]) -> None:
        self.engine, self._process = engine, process
        self.about = self._hear()

    def run(self, texts: Sequence[str], wants_vectors: bool = False) -> dict[str, Any]:
        """One turn over all texts."""
        if self._process.stdin is None:
            raise RuntimeError("the engine has no stdin")
        order = {"texts": list(texts), "batch": 256, "wants_vectors": wants_vectors}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"{self.engine.name} {self.engine.dtype} ended: see above")
        heard: dict[str, Any] = json.loads(line)
        return heard


@contextmanager
def started(all_engines: Sequence[Engine], threads: int) -> Iterator[list[Worker]]:
    """Every engine loaded, and ended afterwards."""
    limits = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    processes = [
        subprocess.Popen(
            engine.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits, **quiet},
        )
        for engine in all_engines
    ]
    try:
        yield [Worker(*pair) for pair in zip(all_engines, processes, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def make_texts(num_words: int, num_texts: int) -> list[str]:
    """The same texts in every run."""
    rng = np.random.default_rng(num_words + num_texts)
    lengths = rng.integers(3, 150, num_texts) if num_words == 0 else [num_words] * num_texts
    return [" ".join(rng.choice(WORDS, int(length))) for length in lengths]


def check(workers: Sequence[Worker]) -> dict[str, float]:
    """How far every engine's vectors are from those of transformers in float32, at most."""
    texts = make_texts(0, 24)
    found = {label(worker): worker.run(texts, wants_vectors=True)["vectors"] for worker in workers}
    expected = np.array(found["transformers f32"])
    far = {}
    for worker in workers:
        cosines = (np.array(found[label(worker)]) * expected).sum(1)
        far[label(worker)] = float(1 - cosines.min())
        if cosines.min() < COSINE[worker.engine.dtype]:
            raise SystemExit(f"{label(worker)} gives other vectors: {far[label(worker)]:.2e}")
    return far


def label(worker: Worker) -> str:
    return f"{worker.engine.name} {worker.engine.dtype}"


def measure(
    workers: Sequence[Worker], names: Sequence[str], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Texts per second by set and engine, a number for each round."""
    rates: dict[str, dict[str, list[float]]] = {}
    for name in names:
        num_words, num_texts = SETS[name]
        texts = make_texts(num_words, num_texts)
        rates[name] = {label(worker): [] for worker in workers}
        for _ in range(rounds):
            for worker in workers:
                rates[name][label(worker)].append(num_texts / worker.run(texts)["seconds"])
    return rates


def show(rates: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """A table: the median of the rounds, and the ratio to the best peer of the same round."""
    for name, by_engine in rates.items():
        print(f"{name}: {SETS[name][0] or '3 to 150'} words, texts/s")
        for engine, values in by_engine.items():
            spread = f"{min(values):.0f} .. {max(values):.0f}"
            print(f"  {engine:18} {statistics.median(values):8.0f}   ({spread})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Texts per second of an encoder.")
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(SETS))
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    config = resolve_config(flags={}, environ=os.environ, config_file=None)
    folder = ModelStore(config.hub).resolve(arguments.model).path
    with started(engines(folder, arguments.threads), arguments.threads) as workers:
        far = check(workers)
        rates = measure(workers, arguments.sets, arguments.rounds)
        versions = {label(worker): worker.about for worker in workers}
    show(rates)
    record = {
        "benchmark": "encoders/throughput",
        "model": folder.name,
        "date": time.strftime("%Y-%m-%d"),
        "machine": platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "engines": versions,
        "one_minus_cosine": far,
        "texts_per_s": {
            name: {engine: round(statistics.median(values), 1) for engine, values in row.items()}
            for name, row in rates.items()
        },
    }
    line = json.dumps(record)
    if arguments.record:
        with (RESULTS / f"{record['date']}-encoders.jsonl").open("a") as file:
            file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
