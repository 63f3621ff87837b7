"""A small workload in a folder: two tasks on eight lines, two tiers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from headrace.core.usage import Usage
from headrace.planner.journal import Answer, request_key
from headrace.planner.workload import Call, Sample, Tier

LABELS = ("sport", "money")


def data_lines() -> list[dict[str, Any]]:
    return [
        {
            "id": f"a{number}",
            "text": f"Article number {number} is about {LABELS[number % 2]} and more of it.",
            "label": LABELS[number % 2],
            "summary": f"About {LABELS[number % 2]}.",
        }
        for number in range(8)
    ]


def workload_tree() -> dict[str, Any]:
    return {
        "name": "small",
        "target_saving": 0.3,
        "tiers": {
            "large": {"model": "large-model", "price": "anthropic/claude-sonnet-4-6"},
            "small": {"model": "small-model", "price": "openai/gpt-5-mini"},
        },
        "baseline": "large",
        "tasks": {
            "label": {
                "data": "data.jsonl",
                "prompt": "Say what this is about.\n{text}",
                "choices": list(LABELS),
                "max_tokens": 4,
                "metric": {"kind": "label_f1", "reference": "label", "labels": list(LABELS)},
                "floor": {"within": 0.1},
                "volume_per_day": 1000,
                "tokens": {"input": 400, "output": 50},
            },
            "summarize": {
                "data": "data.jsonl",
                "system": "You write for a paper.",
                "prompt": "Summarize: {text:5}",
                "max_tokens": 8,
                "metric": {"kind": "rouge_l", "reference": "summary"},
                "floor": 0.5,
                "latency": {"e2e_s": 60},
                "volume_per_day": 1000,
                "can_wait_s": 86400,
                "tokens": {"input": 800, "output": 200},
            },
        },
    }


def write_workload(folder: Path, tree: dict[str, Any] | None = None) -> Path:
    """Write data and YAML, and say where the YAML is."""
    lines = (json.dumps(line) for line in data_lines())
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "work.yaml"
    path.write_text(yaml.safe_dump(workload_tree() if tree is None else tree, sort_keys=False))
    return path


def answer_to(call: Call, tier: Tier, sample: Sample, text: str, at_s: float = 0.0) -> Answer:
    """What a profile would have: a second of work for 100 + 10 tokens."""
    return Answer(
        key=request_key(call, tier, sample),
        call=call.name,
        tier=tier.name,
        sample=sample.id,
        text=text,
        usage=Usage(input_tokens=100, output_tokens=10),
        ttft_s=0.1,
        e2e_s=1.0,
        prefill_s=0.1,
        decode_s=0.9,
        finish_reason="stop",
        concurrency=1,
        answered_unix_s=1000.0 + at_s,
    )
