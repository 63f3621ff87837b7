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


def records_of(benchmark: str, call: str) -> list[dict[str, Any]]:
    """Every record of a benchmark with the file it lies in, newest first."""
    found = [
        record | {"file": path.relative_to(ROOT).as_posix()}
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl"), reverse=True)
        for record in reversed([json.loads(line) for line in path.read_text().splitlines()])
        if record["benchmark"] == benchmark
    ]
    if not found:
        sys.exit(f"benchmarks/results has no {benchmark} record; run `{call} args=--record`.")
    return found


def measured() -> str:
    """headrace beside the machine's limits, and the sentence that says where it comes from."""
    record = records_of("engine/floors", "make bench name=engine/floors")[0]
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
    """headrace beside the best peer of each cell, each model from its newest record."""
    newest: dict[str, dict[str, Any]] = {}
    for record in records_of("peers/bench_peers", "make bench-peers"):
        for cell in record["cells"]:
            newest.setdefault(cell["model"], record)
    lines = [
        "| | headrace | best peer measured | times faster (lowest to highest) |",
        "|---|---|---|---|",
    ]
    for model in sorted(newest):
        lines += [peer_row(cell) for cell in newest[model]["cells"] if cell["model"] == model]
    cpu, threads = newest_machine(newest)
    files = sorted({record["file"] for record in newest.values()})
    where = (
        f"{cpu}, {threads} threads, medians of rounds of pairs. "
        + "".join(measured_beside(model, newest[model]) for model in sorted(newest))
        + f"Record: {', '.join(f'`{name}`' for name in files)}; `make bench-peers` repeats it, "
        "[docs/guides/peers.md](docs/guides/peers.md) says how."
    )
    return "\n".join([*lines, "", where])


def peer_row(cell: dict[str, Any]) -> str:
    best = next(each for each in cell["standings"] if each["engine"] == cell["best"])
    return (
        f"| {cell['model_name']}, {cell['title']} | {number(best['ours'])} | "
        f"{number(best['theirs'])} {cell['best']} | {best['ratio']:.2f} "
        f"({best['lowest']:.2f} to {best['highest']:.2f}) |"
    )


def newest_machine(records: dict[str, dict[str, Any]]) -> tuple[str, int]:
    """The machine of all records, or the end: one table is of one machine."""
    machines = {(each["cpu"], each["settings"]["num_threads"]) for each in records.values()}
    if len(machines) > 1:
        sys.exit(f"The newest records of the peers are of several machines: {sorted(machines)}.")
    return machines.pop()


def measured_beside(model: str, record: dict[str, Any]) -> str:
    """Who was measured on a model and who was not, when, in how many rounds."""
    others = sorted(set(record["engines"].get(model, {})) - {"headrace"})
    absent = sorted(record["failures"].get(model, {}))
    return (
        f"Beside the {model} ({record['date']}, {record['settings']['rounds']} rounds): "
        f"{', '.join(others)}"
        + (f"; not everywhere, the record says why: {', '.join(absent)}" if absent else "")
        + ". "
    )


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
