"""What a weight format costs in size, likelihood, divergence and speed, beside its source model.

    make bench name=quality/formats
    python benchmarks/quality/formats.py --model gemma3:270m --variants q4_0:nearest q4_0 q4_0:text
    python benchmarks/quality/formats.py --rounds 0 --windows 4 --calibration-tokens 12288 \
        --variants q4_0:nearest q4_0 q4_0:text q4_0:gptq

A variant is FORMAT[:METHOD], or bitsNUMBER[:METHOD] for a mix of that many bits per weight:
`nearest` takes each group's range, `search` (the default) looks for scales, `text` searches with
the importance that a calibration text gives each column, `gptq` feeds errors on to later columns.
That text is this project's pages and code, none of the measured ones. Measured are three short
texts; with `--windows`, as many windows of the example's articles in four languages and of the
kernels' C++ each, besides. A folder of safetensors is
measured as the file that it becomes. The oracle is transformers in float32 on the dequantized
weights of the model itself; the row `source` is headrace on its file, so that what the arithmetic
costs is seen apart. When the model is quantized already, its weights lie on the grid of its own
formats: a variant that can hold this grid looks better than on weights never rounded.

Quality: mean NLL, mean and worst KL in nats per token, how often both put the same token first;
for two variants of one format the ratio of their KL, with its interval of 95 % (`intervals.py`).
Speed: medians of alternating rounds, all variants in one process. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from floors import RESULTS, environment
from intervals import Interval, interval, interval_of_difference, interval_of_ratio

from headrace.convert.calibration import calibrate
from headrace.convert.feedback_pass import round_by_text
from headrace.convert.folder_source import FolderSource
from headrace.convert.format_plan import plan_formats
from headrace.convert.gguf_source import GgufSource
from headrace.convert.mixed_plan import plan_mixed
from headrace.convert.quantize_file import Method, Rounding, quantize_file
from headrace.models.llama import Llama
from headrace.ops.protocol import Ops
from headrace.ops.table import make_ops
from headrace.quant.scale_search import Floats
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader
from headrace.weights.names import sources
from headrace.weights.safetensors import SafetensorsReader
from oracle import quality, transformers_logits
from oracle.driver import Driver, Piece, load_model
from oracle.quality import PerToken
from oracle.real_models import real_model
from quality import model_path

ROOT = Path(__file__).parents[2]
BLOCK_SIZE, STEP_TOKENS = 32, 256
PREFILL_TOKENS, DECODE_TOKENS = 256, 16
CALIBRATION = ("docs/concepts/*.md", "src/headrace/sched/*.py", "docs/guides/*.md")
ARTICLES, KERNELS = "examples/media_company/articles.jsonl", "csrc/cpu/kernels/*.inl"
VARIANTS = ("q8_0", "q6_k", "q5_k", "q4_1", "q4_k", "q4_0:nearest", "q4_0", "q4_0:gptq")
TEXT_METHODS = ("text", "gptq")


@dataclass(frozen=True)
class Variant:
    """A file, and what it was made with."""

    name: str
    path: Path
    bits_per_weight: float


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="qwen2.5-coder:0.5b", help="name, or path of a GGUF file or folder"
    )
    parser.add_argument("--variants", nargs="+", default=VARIANTS, metavar="FORMAT[:METHOD]")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--max-tokens", type=int, default=512, help="tokens of each text")
    parser.add_argument("--windows", type=int, default=0, help="of --max-tokens, of longer texts")
    parser.add_argument("--calibration-tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7, help="of the speed; 0: no speed")
    parser.add_argument("--folder", type=Path, help="keep the files here, and use those that are")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    return parser.parse_args()


def bits_of(path: Path) -> float:
    reader = GgufReader(path)
    tensors = [reader.tensor(name) for name in reader.names()]
    bits = 8 * sum(t.nbytes for t in tensors) / sum(int(np.prod(t.shape)) for t in tensors)
    del tensors
    reader.close()
    return bits


def calibration_ids(path: Path, max_tokens: int) -> list[int]:
    """The first tokens of each kind of calibration text, of all kinds as many."""
    tokenizer = Tokenizer.from_gguf(GgufReader(path).metadata)
    ids: list[int] = []
    for pattern in CALIBRATION:
        text = "\n\n".join(page.read_text("utf-8") for page in sorted(ROOT.glob(pattern)))
        ids += tokenizer.encode(text)[: max_tokens // len(CALIBRATION)]
    return ids


@dataclass(frozen=True)
class Window:
    """Tokens of a text that the model sees by themselves."""

    text: str
    ids: Sequence[int]


def measured_windows(path: Path, args: argparse.Namespace) -> list[Window]:
    """The short texts, cut; then windows of the longer ones."""
    tokenizer = Tokenizer.from_gguf(GgufReader(path).metadata)
    length = args.max_tokens
    windows = [Window(k, tokenizer.encode(text)[:length]) for k, text in quality.texts().items()]
    if args.windows:
        for name, text in longer_texts().items():
            ids = tokenizer.encode(text)[: args.windows * length]
            windows += [Window(name, ids[i : i + length]) for i in range(0, len(ids), length)]
    return windows


def longer_texts() -> dict[str, str]:
    texts: dict[str, str] = {}
    for line in (ROOT / ARTICLES).read_text("utf-8").splitlines():
        article = json.loads(line)
        name = f"articles {article['language']}"
        texts[name] = texts.get(name, "") + f"{article['title']}\n\n{article['text']}\n\n"
    kernels = sorted(ROOT.glob(KERNELS))
    return texts | {"c++": "\n".join(page.read_text("utf-8") for page in kernels)}


@dataclass(frozen=True)
class Calibrated:
    """A text's tokens, the importance of columns by GGUF name, the device that runs it."""

    ids: Sequence[int]
    importance: Mapping[str, Floats]
    ops: Ops


def importance_of(path: Path, ops: Ops, ids: Sequence[int]) -> dict[str, Floats]:
    """What the calibration text says, by GGUF name."""
    reader = GgufReader(path)
    found = calibrate(reader, ids, ops)
    return found.of_files(sources(reader.architecture, "gguf", found.num_layers, reader.metadata))


def make_variant(source: Path, name: str, folder: Path, text: Calibrated, threads: int) -> Variant:
    """Quantize, unless the folder has the file."""
    format_name, _, method = name.partition(":")
    path = folder / f"{source.stem}.{name.replace(':', '-')}.gguf"
    if not path.exists():
        reader = GgufReader(source)
        given = GgufSource(reader)
        weights = text.importance if method in TEXT_METHODS else {}
        bits = format_name.removeprefix("bits")
        formats = (
            plan_formats(given.tensors, format_name)
            if bits == format_name
            else plan_mixed(given, float(bits), weights)
        )
        how: Method = "nearest" if method == "nearest" else "search"
        started = time.perf_counter()
        rounded = {}
        if method == "gptq":
            rounded = round_by_text(reader, given, formats, text.ids, text.ops, threads)
        rounding = Rounding(formats, how, weights, rounded)
        quantize_file(given, rounding, path, threads)
        reader.close()
        print(f"{name}: made in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return Variant(name, path, bits_of(path))


def as_file(source: Path, folder: Path) -> Path:
    """The GGUF file of a folder, its weights as they are; a file itself."""
    path = folder / f"{source.name}.gguf"
    if not source.is_dir():
        return source
    if not path.exists():
        reader = SafetensorsReader(source)
        given = FolderSource(reader)
        kept = {tensor.name: tensor.format.name for tensor in given.tensors}
        quantize_file(given, Rounding(kept), path)
        reader.close()
    return path


Found = dict[str, list[tuple[Window, PerToken]]]
"""What was measured of each variant, window by window."""


def measure_quality(source: Path, models: Mapping[str, Llama], windows: Sequence[Window]) -> Found:
    oracle = real_model(source)
    found: Found = {name: [] for name in models}
    for i, window in enumerate(windows):
        expected = transformers_logits.logits(oracle, list(window.ids))
        for name, model in models.items():
            driver = Driver(model, -(-len(window.ids) // BLOCK_SIZE), BLOCK_SIZE)
            logits = driver.run(window.ids, [STEP_TOKENS])
            found[name].append((window, quality.compare_tokens(expected, logits, window.ids)))
        print(f"window {i + 1} of {len(windows)}: {window.text}", file=sys.stderr)
    return found


def by_text(windows: Sequence[tuple[Window, PerToken]]) -> list[dict[str, Any]]:
    """A row per text."""
    rows = []
    for text in dict.fromkeys(window.text for window, _ in windows):
        of_text = [found for window, found in windows if window.text == text]
        measured = quality.summarize(quality.joined(of_text))
        rows.append({"text": text, **asdict(measured), "nll_change": measured.nll_change})
    return rows


def comparisons(found: Found) -> list[dict[str, Any]]:
    """Each two variants of one format: the first's KL over the second's, and so on."""
    rows = []
    for first, second in combinations(found, 2):
        if first.partition(":")[0] != second.partition(":")[0]:
            continue
        kls = [[measured.kl for _, measured in found[name]] for name in (second, first)]
        sames = [[measured.is_same_best for _, measured in found[name]] for name in (second, first)]
        ratio = np.concatenate(kls[0]).mean() / np.concatenate(kls[1]).mean()
        more = np.concatenate(sames[0]).mean() - np.concatenate(sames[1]).mean()
        rows.append({"variant": second, "against": first, "kl_ratio": float(ratio)})
        rows[-1]["kl_ratio_interval"] = interval_of_ratio(*kls)
        rows[-1]["same_best_difference"] = float(more)
        rows[-1]["same_best_interval"] = interval_of_difference(*sames)
    return rows


def measure_speed(models: Mapping[str, Llama], rounds: int) -> dict[str, dict[str, float]]:
    """Median tokens/s of a prefill and of decode steps, one model after the other in each round."""
    rates: dict[str, dict[str, list[float]]] = {
        name: {"prefill": [], "decode": []} for name in models
    }
    for _ in range(rounds):
        for name, model in models.items():
            blocks = -(-(PREFILL_TOKENS + DECODE_TOKENS) // BLOCK_SIZE)
            driver = Driver(model, blocks, BLOCK_SIZE)
            ids = [10 + i % 200 for i in range(PREFILL_TOKENS)]
            started = time.perf_counter()
            driver.step([Piece("a", ids)])
            middle = time.perf_counter()
            for i in range(DECODE_TOKENS):
                driver.step([Piece("a", [10 + i])])
            ended = time.perf_counter()
            rates[name]["prefill"].append(PREFILL_TOKENS / (middle - started))
            rates[name]["decode"].append(DECODE_TOKENS / (ended - middle))
    return {name: {k: median(v) for k, v in found.items()} for name, found in rates.items()}


def mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    """Over all tokens of all texts."""
    return float(np.average([r[key] for r in rows], weights=[r["num_tokens"] for r in rows]))


def show(results: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> None:
    print(
        f"{'variant':14} {'bits':>5} {'MB':>5} {'NLL':>7} {'change':>8} {'KL':>8} {'worst KL':>8} "
        f"{'same best':>9} {'decode':>7} {'prefill':>7}"
    )
    for row in results:
        texts, speed = row["texts"], row.get("speed", {})
        change = mean(texts, "nll") / mean(texts, "oracle_nll") - 1
        print(
            f"{row['variant']:14} {row['bits_per_weight']:5.2f} {row['num_bytes'] / 1e6:5.0f} "
            f"{mean(texts, 'nll'):7.4f} {change:+8.2%} {mean(texts, 'kl'):8.5f} "
            f"{max(r['max_kl'] for r in texts):8.3f} {mean(texts, 'top1_agreement'):9.2%} "
            f"{speed.get('decode', 0):7.1f} {speed.get('prefill', 0):7.0f}"
        )
    for row in results:
        print(
            f"{row['variant']:14} KL by text: "
            + ", ".join(f"{text['text']} {text['kl']:.4f}" for text in row["texts"])
        )
    for row in pairs:
        print(
            f"{row['variant']} / {row['against']}: KL {row['kl_ratio']:.3f} "
            f"{shown(row['kl_ratio_interval'])}, "
            f"same best {100 * row['same_best_difference']:+.2f} points "
            f"{shown(row['same_best_interval'], 100)}"
        )


def shown(limits: Interval, unit: float = 1) -> str:
    return f"[{unit * limits[0]:.3f}, {unit * limits[1]:.3f}]"


def run(
    args: argparse.Namespace, folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row per variant, and one per comparison of two."""
    source = as_file(model_path(args.model), folder)
    ops = make_ops("cpu", num_threads=args.threads)
    needs_text = any(name.partition(":")[2] in TEXT_METHODS for name in args.variants)
    ids = calibration_ids(source, args.calibration_tokens) if needs_text else []
    text = Calibrated(ids, importance_of(source, ops, ids) if needs_text else {}, ops)
    variants = [Variant("source", source, bits_of(source))]
    for name in args.variants:
        variants.append(make_variant(source, name, folder, text, args.threads))
    gc.collect()
    torch.set_num_threads(args.threads)
    length = max(args.max_tokens, PREFILL_TOKENS + DECODE_TOKENS)
    models = {v.name: load_model(v.path, ops, max_positions=length) for v in variants}
    found = measure_quality(source, models, measured_windows(source, args))
    speed = measure_speed(models, args.rounds) if args.rounds else {}
    results = []
    for variant in variants:
        kls = [measured.kl for _, measured in found[variant.name]]
        row = {"variant": variant.name, "bits_per_weight": variant.bits_per_weight}
        row |= {"num_bytes": variant.path.stat().st_size, "kl_interval": interval(kls)}
        row |= {"texts": by_text(found[variant.name])}
        results.append(row | ({"speed": speed[variant.name]} if speed else {}))
    return results, comparisons(found)


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        results, pairs = run(args, folder)
    show(results, pairs)
    record = {"benchmark": "quality/formats", **environment(), "model": args.model}
    record |= {"calibration_tokens": args.calibration_tokens, "windows": args.windows}
    record |= {"results": results, "comparisons": pairs}
    if args.record:
        with (RESULTS / f"{record['date']}-quality-formats.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
