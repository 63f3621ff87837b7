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


def tier(record: dict[str, Any]) -> str:
    """The kernels of a record, as its file says: cpu-amx, cpu-avx512."""
    return Path(record["file"]).stem.split("-", 3)[3]


def measured() -> str:
    """headrace beside the limits of each machine, and where that comes from."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records_of("engine/floors", "make bench name=engine/floors"):
        newest.setdefault((record["ops"], record["cpu"]), record)
    machines = [newest[key] for key in sorted(newest)]
    columns = [measured_column(record) for record in machines]
    settings = machines[0]["settings"]
    if any(record["settings"] != settings for record in machines):
        sys.exit("The newest records of engine/floors differ in their work.")
    names = [
        "one stream, tokens/s",
        f"prompt of {settings['prompt_tokens']} tokens, tokens/s",
        f"{settings['concurrency']} requests at once ({settings['concurrent_prompt_tokens']} in, "
        f"{settings['concurrent_output_tokens']} out), output tokens/s, prompts in the time",
        "peak memory, KV cache included",
    ]
    lines = [
        "| | " + " | ".join(f"{record['ops']} | of its own limit" for record in machines) + " |",
        "|---|" + "---|---|" * len(machines),
    ]
    lines += [
        f"| {name} | " + " | ".join(" | ".join(column[i]) for column in columns) + " |"
        for i, name in enumerate(names)
    ]
    where = "".join(
        f"{record['ops']}: {record['cpu']}, {record['num_threads']} threads, {record['date']}, "
        f"`{record['file']}`. "
        for record in machines
    )
    return "\n".join(
        [
            *lines,
            "",
            f"{machines[0]['model']} Q4_K_M, medians of {settings['rounds']} rounds in alternation "
            f"with the probes of the limits. {where}`make bench name=engine/floors` repeats it.",
        ]
    )


def measured_column(record: dict[str, Any]) -> list[tuple[str, str]]:
    """A machine's medians, each beside what the machine could at most."""
    median, rounds = record["median"], record["rounds"]
    read = sorted(each["roof"]["read_bytes_per_s"] for each in rounds)
    int8 = sorted(each["roof"]["int8_ops_per_s"] for each in rounds)
    return [
        (
            f"{median['decode_tokens_per_s']:.1f}",
            f"{median['decode_share_of_bandwidth']:.0%} of the read bandwidth "
            f"({read[0] / 1e9:.1f} to {read[-1] / 1e9:.1f} GB/s)",
        ),
        (
            f"{median['prefill_tokens_per_s']:.0f}",
            f"{median['prefill_share_of_int8']:.0%} of the int8 peak "
            f"({int8[0] / 1e12:.1f} to {int8[-1] / 1e12:.1f} TOP/s)",
        ),
        (f"{median['concurrent_output_tokens_per_s']:.0f}", ""),
        (f"{record['peak_rss_bytes'] / 2**20:.0f} MiB", ""),
    ]


Machine = tuple[str, str, int]
"""Tier, CPU, threads."""


def peers() -> str:
    """headrace beside the best peer of each cell on each machine, from its newest record there."""
    cells: dict[tuple[str, str], dict[Machine, str]] = {}
    used: dict[Machine, dict[str, list[dict[str, Any]]]] = {}
    for record in records_of("peers/bench_peers", "make bench-peers"):
        machine = (tier(record), record["cpu"], record["settings"]["num_threads"])
        for cell in record["cells"]:
            key = (cell["model"], f"{cell['model_name']}, {cell['title']}")
            if machine in cells.setdefault(key, {}):
                continue
            cells[key][machine] = peer_columns(cell, record["settings"]["rounds"])
            records = used.setdefault(machine, {}).setdefault(cell["model"], [])
            if record not in records:
                records.append(record)
    machines = sorted(used)
    lines = [
        "| | "
        + " | ".join(f"{name}: headrace | best peer | times faster" for name, *_ in machines)
        + " |",
        "|---|" + "---|---|---|" * len(machines),
    ]
    lines += [
        f"| {name} | " + " | ".join(by.get(machine, "| |") for machine in machines) + " |"
        for (_, name), by in sorted(cells.items(), key=lambda item: item[0][0])
    ]
    where = "".join(
        f"{name}: {cpu}, {threads} threads. "
        + "".join(
            measured_beside(model, records)
            for model, records in sorted(used[name, cpu, threads].items())
        )
        for name, cpu, threads in machines
    )
    files = sorted(
        {each["file"] for by in used.values() for records in by.values() for each in records}
    )
    return "\n".join(
        [
            *lines,
            "",
            "Medians of rounds of pairs, with the lowest and the highest ratio; of a peer that "
            f"ran in one round, that round. {where}Records: "
            f"{', '.join(f'`{name}`' for name in files)}; `make bench-peers` repeats it, "
            "[docs/guides/peers.md](docs/guides/peers.md) says how.",
        ]
    )


def peer_columns(cell: dict[str, Any], num_rounds: int) -> str:
    """Says in how many rounds the two met where it was not in all; one has no median."""
    best = next(each for each in cell["standings"] if each["engine"] == cell["best"])
    spread = f"{best['lowest']:.2f} to {best['highest']:.2f}"
    if best["rounds"] == 1 < num_rounds:
        spread = "one round, no median"
    elif best["rounds"] < num_rounds:
        spread += f", {best['rounds']} of {num_rounds} rounds"
    return (
        f"{number(best['ours'])} | {number(best['theirs'])} {cell['best']} | {best['ratio']:.2f} "
        f"({spread})"
    )


def measured_beside(model: str, records: list[dict[str, Any]]) -> str:
    """Who was measured on a model and who was not, when, in how many rounds."""
    others: set[str] = set()
    absent: set[str] = set()
    when: set[str] = set()
    for record in records:
        others |= set(record["engines"].get(model, {})) - {"headrace"}
        absent |= set(record["failures"].get(model, {}))
        when.add(f"{record['date']}, {record['settings']['rounds']} rounds")
    return (
        f"Beside the {model} ({'; '.join(sorted(when))}): {', '.join(sorted(others))}"
        + (f"; not everywhere, the record says why: {', '.join(sorted(absent))}" if absent else "")
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
