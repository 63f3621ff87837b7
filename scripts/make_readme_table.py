"""Write the measured table of README.md from the newest record of benchmarks/engine/floors.py.

`--check` writes nothing and fails when the table differs from the record.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def newest_record() -> dict[str, Any]:
    """The last line of the newest results file that holds a floors record."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl"), reverse=True):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        found = [record for record in records if record["benchmark"] == "engine/floors"]
        if found:
            return found[-1] | {"file": path.relative_to(ROOT).as_posix()}
    sys.exit("benchmarks/results has no engine/floors record; run it with args=--record.")


def table(record: dict[str, Any]) -> str:
    """The table and the sentence that says where it comes from."""
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


def renewed(text: str) -> str:
    """README with the table of the newest record."""
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    return f"{head}{BEGIN}\n{table(newest_record())}\n{END}{tail}"


def main() -> None:
    path = ROOT / "README.md"
    text = path.read_text()
    if "--check" in sys.argv:
        if renewed(text) != text:
            sys.exit("The table of README.md differs from its record; run `make fix`.")
        return
    path.write_text(renewed(text))


if __name__ == "__main__":
    main()
