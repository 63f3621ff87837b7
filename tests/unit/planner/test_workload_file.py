"""Workload files: what is read, and what errors say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.workload_files import workload_tree, write_workload
from headrace.core.errors import ConfigError
from headrace.planner.workload_file import read_workload


def test_a_workload_is_read_whole(tmp_path: Path) -> None:
    workload = read_workload(write_workload(tmp_path))
    assert [call.name for call in workload.calls] == ["label", "summarize"]
    task = workload.tasks["summarize"]
    assert (task.floor.least, task.floor.within) == (0.5, None)
    assert task.call.prompt.render(task.call.samples[0].fields) == (
        "Summarize: Article number 0 is about"
    )
    assert task.call.samples is workload.tasks["label"].call.samples
    assert workload.scenarios[0].tiers == ("large", "small")
    assert workload.tiers["small"].provider == "openai"


def test_merged_calls_stand_in_and_scenarios(tmp_path: Path) -> None:
    tree = workload_tree()
    del tree["baseline"]
    tree["tiers"]["what-if"] = {"stands_in": "small", "price": "openai/gpt-5-nano"}
    tree["scenarios"] = {"api": {"baseline": "large", "tiers": ["what-if"]}}
    tree["merged"] = {
        "both": {
            "prompt": "{text}",
            "max_tokens": 20,
            "outputs": {"label": "label", "summarize": "summary"},
        }
    }
    workload = read_workload(write_workload(tmp_path, tree))
    assert workload.calls[-1].is_merged
    assert workload.scenarios[0].tiers == ("large", "what-if")
    assert workload.tiers["what-if"].measured_on == "small"


def _without(tree: dict[str, Any], path: str) -> None:
    *parts, last = path.split(".")
    for part in parts:
        tree = tree[part]
    del tree[last]


def _with(tree: dict[str, Any], path: str, value: Any) -> None:
    *parts, last = path.split(".")
    for part in parts:
        tree = tree[part]
    tree[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("tasks.label.metric.kind", "bleu", "label_f1"),
        ("tasks.label.promt", "x", "prompt"),
        (
            "tasks.label.prompt",
            "{txt}",
            "{txt} in tasks.label.prompt is no field of the data; allowed: id, text, label, "
            "summary. Did you mean text?",
        ),
        ("tasks.label.prompt", "{text", "{{ and }} are braces"),
        ("tasks.label.metric.reference", "labels", "'labels' in tasks.label.metric.reference"),
        ("tasks.label.max_tokens", 0, "1 to"),
        ("tasks.label.volume_per_day", True, "whole number"),
        ("tasks.label.floor", 1.5, "0 to 1"),
        ("tasks.label.data", "gone.jsonl", "No such file"),
        ("tasks.summarize.shorter", [8], "below max_tokens (8)"),
        ("tasks.summarize.arrivals", {"kind": "poisson", "cv": 2}, "kind: gamma"),
        ("tasks.summarize.metric.labels", ["a", "b"], "has no labels"),
        ("tiers.small.url", "ftp://x", "http"),
        ("tiers.small.price", "gpt-5-mini", "provider/model"),
        ("tiers.small.stands_in", "large", "without model"),
        ("tiers.small.api_key", "env:X", "together with url"),
        ("baseline", "medium", "large, small"),
        ("target_saving", 2, "0 to 1"),
        ("tasks.label.json_schema", {"type": "object"}, "not both"),
        ("tasks.label.metric.labels", ["sport", "Sport!"], "differ in their words"),
        ("tasks.label.judge", "medium", "large, small"),
        ("tasks.label.judge", {"tier": "large", "model": "x"}, "tier, question"),
        ("baseline", "lrge", "is 'lrge'; allowed: one of large, small. Did you mean large?"),
        ("tasks.label.judge", "smal", "Did you mean small?"),
        ("tasks.label.metric.kind", "label_f2", "Did you mean label_f1?"),
        (
            "tasks.label.upstreams",
            {"far": {"url": "x"}},
            "upstreams is no key; allowed: data, prompt",
        ),
        ("tasks.label.prompt", None, "tasks.label.prompt is empty; allowed: a text"),
        ("tiers.small", None, "tiers.small is empty; allowed: a map with model"),
        ("tasks.label.metric", None, "metric is empty; allowed: one of exact, label_f1"),
        ("tasks.label.choices", "sport", "choices is 'sport'; allowed: a list of texts"),
        ("tasks.label.choices", [], "choices is []; allowed: a list of texts, none of them empty."),
        (
            "tiers.small",
            {"model": "x", "url": "http://h/v1", "api_key": "sk-1"},
            "tiers.small.api_key is no reference; allowed: env:NAME",
        ),
        ("tiers.small", {"model": "x", "url": "h:1"}, "tiers.small.url is 'h:1'; allowed: an http"),
    ],
)
def test_errors_name_the_key_and_what_is_allowed(
    tmp_path: Path, path: str, value: Any, words: str
) -> None:
    tree = workload_tree()
    _with(tree, path, value)
    with pytest.raises(ConfigError) as caught:
        read_workload(write_workload(tmp_path, tree))
    message = caught.value.message
    assert words in message
    assert path.split(".")[-1] in message


@pytest.mark.parametrize("path", ["tiers", "tasks", "baseline", "tasks.label.prompt"])
def test_what_must_be_there(tmp_path: Path, path: str) -> None:
    tree = workload_tree()
    _without(tree, path)
    with pytest.raises(ConfigError, match=path.rsplit(".", maxsplit=1)[-1] + " is missing;"):
        read_workload(write_workload(tmp_path, tree))


def test_a_form_that_is_no_map_is_refused(tmp_path: Path) -> None:
    tree = workload_tree()
    del tree["tasks"]["label"]["choices"]
    tree["tasks"]["label"]["json_schema"] = "object"
    with pytest.raises(ConfigError, match="is 'object'; allowed: a JSON schema, a map"):
        read_workload(write_workload(tmp_path, tree))


def test_files_of_windows_are_read(tmp_path: Path) -> None:
    path = write_workload(tmp_path)
    for file in (path, tmp_path / "data.jsonl"):
        text = file.read_text().replace("\n", "\r\n")
        file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert len(read_workload(path).tasks["label"].call.samples) == 8


def test_a_broken_line_of_data_is_named(tmp_path: Path) -> None:
    path = write_workload(tmp_path)
    with (tmp_path / "data.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ConfigError, match=r"data\.jsonl:9"):
        read_workload(path)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ({"kind": "label_f1", "reference": "label", "labels": ["sport", "art"]}, "sport, art"),
        ({"kind": "contains", "reference": "facts"}, "each with a word"),
        (
            {"kind": "json_fields", "reference": "seo", "fields": {"title": "overlap"}},
            "an object with title",
        ),
    ],
)
def test_a_reference_that_no_answer_can_meet_is_named(
    tmp_path: Path, metric: dict[str, Any], words: str
) -> None:
    tree = workload_tree()
    tree["tasks"]["label"]["metric"] = metric
    path = write_workload(tmp_path, tree)
    data = tmp_path / "data.jsonl"
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines = [line | {"facts": ["sixty"], "seo": {"title": "x"}} for line in lines]
    lines[3] |= {"facts": ["-"], "seo": {"slug": "x"}}
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match=r"a[13]") as caught:
        read_workload(path)
    assert words in caught.value.message
