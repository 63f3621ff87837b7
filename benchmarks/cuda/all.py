"""Everything to be known of the CUDA kernels on a GPU, in one call of less than eight minutes.

Sections, each a process of its own, so that what breaks one leaves the others alone: the device;
each op in bf16 on fresh random inputs against float64, outputs poisoned; a small model beside the
CPU's, and replayed steps beside eager; then roofs, decode steps, prefill, 1,000 requests and each
kernel, of a model's shape with random weights. What was found is on the disk after each item; when
the time is spent, what is left is skipped and named. The exit status is 1 where something is wrong,
broken or skipped. The last line is one JSON record, without what the file has of each item.

    python benchmarks/cuda/all.py --out results/            # an H200, with torch and Triton
    python benchmarks/cuda/all.py --sections linears tokens # some of it
    TRITON_INTERPRET=1 python benchmarks/cuda/all.py --dry-run   # no GPU: the script itself
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests"), str(Path(__file__).resolve().parent)]

from sections import Supervisor, items, missing_packages  # noqa: E402

GROUPS = (
    {"device": 40},
    {"linears": 160, "around": 160, "attention": 160, "attention-int8": 160,
     "attention-fp8": 160, "choices": 160, "tokens": 160},
    {"roofs": 30}, {"decode": 110}, {"prefill": 50}, {"decode-float8": 70}, {"requests": 110},
    {"kernels": 80},
)  # fmt: skip
"""Sections in their order, with the seconds that each may take at the most; those of a group run at
once, because most of a check is the compiling of kernels."""
SECTIONS = {name: seconds for group in GROUPS for name, seconds in group.items()}
BUDGET = 465
"""Seconds of all sections: with the starts and the table less than eight minutes."""


def run_section(name: str, arguments: argparse.Namespace) -> None:
    """One section in this process; the parent of such processes needs no torch."""
    importlib.import_module("section_items").run_section(name, arguments)


def table(found: list[dict[str, Any]], problems: dict[str, str]) -> str:
    """Wrong and broken items, then times beside their floors, then what was not done."""
    checked = [item for item in found if "deviation" in item]
    wrong = [item for item in checked if not is_right(item)]
    lines = [f"correct: {len(checked) - len(wrong)} of {len(checked)}"]
    lines += [f"WRONG    {item['section']}: {item['name']}: {item['deviation']:.3g}, "
              f"at most {item['bound']:.3g} {item.get('note', '')}" for item in wrong]  # fmt: skip
    lines += [f"BROKEN   {item['section']}: {item['name']}: {item['error']}"
              for item in found if "error" in item]  # fmt: skip
    lines += [f"SKIPPED  {item['section']}: {item['name']}: {item['skipped']}"
              for item in found if "skipped" in item]  # fmt: skip
    lines += [f"STOPPED  {section}: {problem}" for section, problem in problems.items()]
    lines.append(f"{'what':48} {'ms':>9} {'floor':>9} {'share':>6}")
    for item in found:
        if "ms" not in item:
            continue
        floor = item.get("floor_ms")
        cells = ("-", "-") if floor is None else (f"{floor:.3f}", f"{floor / item['ms']:.0%}")
        lines.append(f"{item['name']:48} {item['ms']:9.3f} {cells[0]:>9} {cells[1]:>6} "
                     f"{item.get('note', '')}")  # fmt: skip
    return "\n".join(lines)


def is_right(item: dict[str, Any]) -> bool:
    return bool(item["deviation"] < item["bound"])


def summary(arguments: argparse.Namespace, problems: dict[str, str]) -> dict[str, Any]:
    found = items(arguments.record)
    is_good = not problems and all(
        not {"error", "skipped"} & item.keys() and ("deviation" not in item or is_right(item))
        for item in found
    )
    return {"name": "cuda/all", "shape": arguments.shape, "is_dry_run": arguments.dry_run,
            "seed": arguments.seed, "is_good": is_good, "problems": problems,
            "items": found}  # fmt: skip


def short(record: dict[str, Any]) -> dict[str, Any]:
    """What a terminal that shows the last screens only still holds: the times, not each check."""
    times = {item["name"]: round(item["ms"], 4) for item in record["items"] if "ms" in item}
    return {key: record[key] for key in record if key != "items"} | {"ms": times}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="llama-3.1-8b", help="one of shapes.SHAPES")
    parser.add_argument("--rounds", type=int, default=20, help="timed calls of each (20)")
    parser.add_argument("--seed", type=int, help="of the inputs; the clock's if absent")
    parser.add_argument("--out", type=Path, help="a folder for table, records and logs")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--budget", type=float, default=BUDGET, help=f"seconds in all ({BUDGET})")
    parser.add_argument(
        "--dry-run", action="store_true", help="interpreted, a tiny shape, one round, one process"
    )
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=1e9, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.seed = time.time_ns() if arguments.seed is None else arguments.seed
    if arguments.section is not None:
        run_section(arguments.section, arguments)
        return 0
    if problem := missing_packages():
        parser.error(problem)
    out = arguments.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    arguments.record = out / "cuda-all.jsonl"
    arguments.record.unlink(missing_ok=True)
    supervisor = Supervisor(arguments.record, out / "cuda-all.log", arguments.budget)
    arguments.rounds = 1 if arguments.dry_run else arguments.rounds
    text = record = ""
    for group in GROUPS:
        names = [name for name in group if name in arguments.sections]
        if arguments.dry_run:
            for name in names:
                run_section(name, arguments)
        elif names:
            supervisor.run_all({name: (command_of(name, arguments), group[name]) for name in names})
        text = table(items(arguments.record), supervisor.problems)
        record = json.dumps(summary(arguments, supervisor.problems))
        (out / "cuda-all.txt").write_text(text + "\n")
        (out / "cuda-all.json").write_text(record + "\n")
        print(f"{', '.join(names)}: done, {supervisor.seconds_left:.0f} s left", flush=True)
        if "device" in names and any("error" in item for item in items(arguments.record)):
            break  # no other section could run
    print(text)
    print(json.dumps(short(json.loads(record))))
    return 0 if json.loads(record)["is_good"] else 1


def command_of(name: str, arguments: argparse.Namespace) -> list[str]:
    return [
        sys.executable, "-X", "faulthandler", __file__, "--section", name, "--record",
        str(arguments.record), "--shape", arguments.shape, "--rounds", str(arguments.rounds),
        "--seed", str(arguments.seed),
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
