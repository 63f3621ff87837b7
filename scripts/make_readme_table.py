"""Write the measured tables of README.md from the newest records of their benchmarks.

`measured` is of benchmarks/engine/floors.py, `peers` of benchmarks/peers/bench_peers.py; a table
whose marks README.md lacks is left out. `--check` writes nothing and fails when a table differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def newest_record(benchmark: str, call: str) -> dict[str, Any]:
    """The last line of the newest results file that holds a record of a benchmark."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl"), reverse=True):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found = [record for record in records if record["benchmark"] == benchmark]
        if found:
            return found[-1] | {"file": path.relative_to(ROOT).as_posix()}
    sys.exit(f"benchmarks/results has no {benchmark} record; run `{call} args=--record`.")


def measured() -> str:
    """headrace beside the machine's limits, and the sentence that says where it comes from."""
    record = newest_record("engine/floors", "make bench name=engine/floors")
    median, settings, rounds = record["median"], record["settings"], record["rounds"]
    read = sorted(each["roof"]["read_bytes_per_s"] for each in rounds)
    int8 = sorted(each["roof"]["int8_ops_per_s"] for each in rounds)
    rows = [
        (
            "one stream, tokens/s",
            f"{median['decode_tokens_per_s']:.1f}",
            f"{median['decode_share_of_bandwidth']:.0%} of the read bandwidth "
            f"({read[0] / 1e9:.1f} to {read[-1] / 1e9:.1f} GB/s)",
        ),
        (
            f"prompt of {settings['prompt_tokens']} tokens, tokens/s",
            f"{median['prefill_tokens_per_s']:.0f}",
            f"{median['prefill_share_of_int8']:.0%} of the int8 peak "
            f"({int8[0] / 1e12:.1f} to {int8[-1] / 1e12:.1f} TOP/s)",
        ),
        (
            f"{settings['concurrency']} requests at once "
            f"({settings['concurrent_prompt_tokens']} in, "
            f"{settings['concurrent_output_tokens']} out), output tokens/s",
            f"{median['concurrent_output_tokens_per_s']:.0f}",
            "prompts counted in the time",
        ),
        ("peak memory", f"{record['peak_rss_bytes'] / 2**20:.0f} MiB", "KV cache included"),
    ]
    lines = ["| | median | beside the machine's own limit |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {share} |" for name, value, share in rows]
    where = (
        f"{record['model']} Q4_K_M, {record['num_threads']} threads, {record['ops']}, "
        f"{record['cpu']}, {record['date']}, median of {len(rounds)} rounds in alternation with "
        f"the probes. Record: `{record['file']}`; `make bench name=engine/floors` repeats it."
    )
    return "\n".join([*lines, "", where])


def peers() -> str:
    """headrace beside the best peer of each cell, and who was not measured."""
    record = newest_record("peers/bench_peers", "make bench-peers")
    lines = [
        "| | headrace | best peer measured | times faster (lowest to highest) |",
        "|---|---|---|---|",
    ]
    for cell in record["cells"]:
        best = next(each for each in cell["standings"] if each["engine"] == cell["best"])
        lines.append(
            f"| {cell['model_name']}, {cell['title']} | {number(best['ours'])} | "
            f"{number(best['theirs'])} {cell['best']} | {best['ratio']:.2f} "
            f"({best['lowest']:.2f} to {best['highest']:.2f}) |"
        )
    measured_engines = sorted(
        {name for each in record["engines"].values() for name in each} - {"headrace"}
    )
    absent = sorted({name for failures in record["failures"].values() for name in failures})
    where = (
        f"{record['cpu']}, {record['settings']['num_threads']} threads, {record['date']}, medians "
        f"of {record['settings']['rounds']} rounds of pairs. "
        f"Measured beside it: {', '.join(measured_engines)}; no other peer is in this record. "
        + (f"Not measured everywhere, the record says why: {', '.join(absent)}. " if absent else "")
        + f"Record: `{record['file']}`; `make bench-peers` repeats it, "
        "[docs/guides/peers.md](docs/guides/peers.md) says how."
    )
    return "\n".join([*lines, "", where])


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


TABLES = {"measured": measured, "peers": peers}


def renewed(text: str) -> str:
    """README with the tables of the newest records."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in text:
            head, rest = text.split(begin, 1)
            text = f"{head}{begin}\n{table()}\n{end}{rest.split(end, 1)[1]}"
    return text


def main() -> None:
    path = ROOT / "README.md"
    text = path.read_text()
    if "--check" in sys.argv:
        if renewed(text) != text:
            sys.exit("A table of README.md differs from its record; run `make fix`.")
        return
    path.write_text(renewed(text))


if __name__ == "__main__":
    main()
