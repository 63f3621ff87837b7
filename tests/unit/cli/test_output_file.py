"""Files that commands would write: asked for before the work, in every command that writes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fakes.workload_files import write_workload
from headrace.cli.app import build_app
from headrace.cli.output_file import check_output_file
from headrace.core.errors import ConfigError

# What each would do first otherwise fails, or prints, in these tests.
COMMANDS = [
    ("--output", ("embed", "--model", "nonsense", "a text", "--output")),
    ("--output", ("report", "WORKLOAD", "--output")),
    ("--write-tiers", ("plan", "WORKLOAD", "--write-tiers")),
    ("--profile", ("profile", "WORKLOAD", "--profile")),
    ("--output", ("quantize", "nonsense", "--to", "q4_0", "--output")),
    ("--out", ("route", "fit", "nonsense.jsonl", "--out")),
    ("--save-json", ("bench", "latency", "nonsense", "--save-json")),
    ("--save-html", ("bench", "serve", "--save-html")),
]


@pytest.mark.parametrize(
    ("flag", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_a_missing_folder_is_said_before_the_work(
    flag: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    file = tmp_path / "none" / "file.gguf"
    workload = write_workload(tmp_path)
    given = [str(workload) if word == "WORKLOAD" else word for word in words]
    done = CliRunner().invoke(build_app(given), [*given, str(file)])
    assert isinstance(done.exception, ConfigError), done.output
    assert done.exception.message == (
        f"{flag} is {str(file)!r}; allowed: a file in a folder that exists. "
        f"There is no folder {file.parent}; make it first."
    )
    assert done.stdout == ""


def test_what_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (None, Path("new.txt"), tmp_path / "new.txt", Path("/dev/null")):
        check_output_file("-o", path)
    with pytest.raises(ConfigError, match=r"allowed: a file\. This is a folder"):
        check_output_file("-o", tmp_path)
    assert list(tmp_path.iterdir()) == []
    for name, target in (("good", tmp_path / "new.txt"), ("bad", tmp_path / "gone" / "new.txt")):
        Path(name).symlink_to(target)
    check_output_file("-o", Path("good"))
    with pytest.raises(ConfigError, match=f"There is no folder {tmp_path / 'gone'}; make it first"):
        check_output_file("-o", Path("bad"))
