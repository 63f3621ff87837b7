"""Every bad command line or file has its exact exit code and message, and leaves stdout empty."""

from __future__ import annotations

import io
import logging
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_bad_inputs import BAD_COMMANDS, BadCommand, write_bad_files
from programs import COMMAND, environment, headrace

from fakes.download_site import open_site
from headrace.cli.main import main

LFS = {"sha256": "0" * 64, "size": 2**60, "pointerSize": 1}


@pytest.fixture(scope="module")
def files(qwen05_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    write_bad_files(folder, qwen05_path)
    return folder


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Commands direct the log to stderr, which pytest replaces after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_table_is_large_and_has_no_row_twice() -> None:
    assert len(BAD_COMMANDS) >= 45
    assert len({str(row) for row in BAD_COMMANDS}) == len(BAD_COMMANDS)


@pytest.mark.parametrize("row", BAD_COMMANDS, ids=lambda row: " ".join(row.line)[:60])
def test_bad_command(
    row: BadCommand,
    files: Path,
    qwen05_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    restored_logging: None,
) -> None:
    """In this process, through the entry point of the installed program: a start costs a second."""

    def fill(text: str) -> str:
        return text.replace("{files}", str(files)).replace("{model}", str(qwen05_path))

    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    for name, value in row.environ.items():
        monkeypatch.setenv(name, fill(value))
    monkeypatch.setattr(sys, "stdin", io.StringIO(row.stdin))
    with pytest.raises(SystemExit) as stop:
        main([fill(word) for word in row.line])
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines(keepends=True) if "failed: offline" not in line]
    assert "".join(lines) == f"error: {fill(row.message)}\n"
    assert stop.value.code == row.code
    assert shown.out == ""


def test_a_port_in_use(qwen05_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = headrace("serve", qwen05_path, "--port", str(port))
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: --port is {port}; allowed: a free port. Something listens on "
        f"127.0.0.1:{port} already; stop it, or choose another --port.\n"
    )


def test_a_port_in_use_and_an_unknown_model_are_told_at_once(tmp_path: Path) -> None:
    """Else the second is told when the first is mended."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ask = ("serve", "qwen2.5-coder:0.6b", "--port", str(port))
        result = headrace(*ask, HEADRACE_HOME=str(tmp_path))
    assert (result.code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: --port is {port}; allowed: a free port. ")
    assert result.stderr.count("The model 'qwen2.5-coder:0.6b' does not exist here.") == 1
    assert result.stderr.count("\n") == 1


def test_too_little_memory_names_the_number_that_does(qwen05_path: Path) -> None:
    ask = ("run", "What is 2 + 2? Answer with the number only.", "--model", qwen05_path)
    refused = headrace(*ask, "--memory", "300MiB")
    assert (refused.code, refused.stdout) == (1, "")
    message = re.fullmatch(
        r"error: The model needs \S+ MiB \(\S+ MiB weights, \S+ MiB scratch, \S+ MiB program, "
        r"\S+ MiB KV cache for 128 tokens\) and there is a limit of 300\.0 MiB\. Give it --memory "
        r"(\d+MiB) or more, lower --max-model-len, or take a smaller model\.\n",
        refused.stderr,
    )
    assert message, refused.stderr
    assert headrace(*ask, "--memory", message[1]).stdout == "4\n"


def test_a_prompt_too_long(qwen05_path: Path, tmp_path: Path) -> None:
    settings = tmp_path / "short.yaml"
    settings.write_text("engine: {max_model_len: 1024}")
    result = headrace("run", "-m", qwen05_path, "--config", settings, stdin="word " * 2000)
    assert (result.code, result.stdout) == (1, "")
    assert result.stderr == (
        "error: This model's maximum context length is 1024 tokens. The prompt has 2030 tokens. "
        "Shorten the prompt.\n"
    )


def test_stdout_on_a_full_disk(qwen05_path: Path) -> None:
    command = [*COMMAND, "run", "hi", "--model", str(qwen05_path), "--max-tokens", "2"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(),
        )
    assert result.returncode == 1
    assert result.stderr == (
        "error: stdout cannot be written: no space left where it goes. Send it somewhere else.\n"
    )


def test_a_download_larger_than_the_disk(tmp_path: Path) -> None:
    with open_site() as site:
        siblings = [{"rfilename": "a.gguf", "size": 2**60, "lfs": LFS}]
        site.hub["o/huge"] = {"id": "o/huge", "sha": "c0ffee", "siblings": siblings}
        result = headrace(
            "pull", "o/huge/a.gguf", HF_ENDPOINT=site.url, HEADRACE_HOME=str(tmp_path)
        )
    assert (result.code, result.stdout) == (1, "")
    assert list((tmp_path / "models").iterdir()) == []
    assert re.fullmatch(
        rf"error: {tmp_path}/models/o-huge-a.gguf-\w+ has \d+ bytes free and {2**60 + 2**27} are "
        r"needed\. Free some space, remove a model \(headrace rm\) or set HEADRACE_HOME to another "
        r"disk\.\n",
        result.stderr,
    )


def test_a_disk_that_fills_up_while_downloading(tmp_path: Path) -> None:
    """The hub does not say how large the file is, and a disk of 512 KiB is full before it ends."""
    unshare = shutil.which("unshare")
    mounted = f"mount -t tmpfs -o size=512k tmpfs {tmp_path} && "
    probe = [unshare or "false", "-rm", "sh", "-c", mounted + "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a disk of its own needs unshare and user namespaces")
    pull = " ".join([*COMMAND, "pull", "o/file/file.gguf"])
    with open_site() as site:
        siblings = [{"rfilename": "file.gguf"}]
        site.hub["o/file"] = {"id": "o/file", "sha": "c0ffee", "siblings": siblings}
        result = subprocess.run(
            [unshare, "-rm", "sh", "-c", mounted + pull],
            capture_output=True,
            text=True,
            check=False,
            env=environment(HF_ENDPOINT=site.url, HEADRACE_HOME=str(tmp_path)),
        )
    assert (result.returncode, result.stdout) == (1, "")
    error = result.stderr[result.stderr.index("error: ") :]
    assert re.fullmatch(
        rf"error: {tmp_path}/models/\S+ has \d+ bytes free and \d+ are needed\. Free some space, "
        r"remove a model \(headrace rm\) or set HEADRACE_HOME to another disk\.\n",
        error,
    ), error
