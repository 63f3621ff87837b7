"""How a pull looks: lines without a terminal, a bar on one."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from fakes.download_site import CONTENT, make_file, make_store, open_site, sha256
from fakes.fake_clock import FakeClock
from headrace.cli.progress import PullLines
from headrace.cli.progress_views import LINE_EVERY_S, CountLines
from headrace.core.config import HubConfig
from headrace.hub.model_source import HttpsFile
from headrace.hub.pull import PullProgress


def test_lines_name_sources_failures_and_tenths(tmp_path: Path) -> None:
    lines: list[str] = []
    with open_site() as site:
        sources = [HttpsFile(f"{site.url}/status/404"), HttpsFile(f"{site.url}/file.gguf")]
        store = make_store(HubConfig(home=tmp_path), make_file(*sources))
        with PullLines(lines.append) as view:
            store.pull("tiny", view.show)
    digest = f"{sha256(CONTENT)[:12]}..."
    to_be = f", to be checked against SHA-256 {digest}"
    assert lines[0] == f"tiny.gguf from {site.url}/status/404{to_be}"
    assert lines[1] == f"  {site.url}/status/404 failed: HTTP 404 Not Found"
    assert lines[2] == f"tiny.gguf from {site.url}/file.gguf{to_be}"
    assert lines[3] == "  downloading, 1000.0 KiB"
    assert lines[-2:] == [
        "  verifying the checksum",
        f"  checked: tiny.gguf has the SHA-256 {digest} it must have",
    ]
    assert len(CONTENT) == 1024004


def test_tenths_are_shown_once() -> None:
    lines: list[str] = []
    view = PullLines(lines.append)
    for done_bytes in range(1001):
        view.show(PullProgress("m", "f", "downloading", "s", done_bytes, 1000))
    assert [line.split()[0] for line in lines[1:]] == [str(n) for n in range(10, 101, 10)]


def test_a_resumed_file_says_where_it_goes_on() -> None:
    lines: list[str] = []
    PullLines(lines.append).show(PullProgress("m", "f", "downloading", "s", 2048, 4096))
    assert lines == ["  downloading, 4.0 KiB, going on at 2.0 KiB"]


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    code = (
        "from headrace.cli.progress import PullBar\n"
        "from headrace.hub.pull import PullProgress as P\n"
        "with PullBar() as bar:\n"
        "    bar.show(P('m', 'f.gguf', 'connecting', 'a source'))\n"
        "    bar.show(P('m', 'f.gguf', 'source_failed', 'a source', detail='[red] 404'))\n"
        "    name = 'owner/repository/' + 60 * 'm'\n"
        "    for n in range(0, 2049, 64):\n"
        "        bar.show(P(name, 'f.gguf', 'downloading', 'b', n << 20, 2048 << 20))\n"
    )
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert "f.gguf from a source" in text
    assert "a source failed: [red] 404" in text
    assert "2.0/2.0 GiB" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    rows = [row for row in re.split(r"[\r\n]+", plain) if "GiB" in row]
    assert rows and all(row.startswith("…m") and len(row) <= 80 for row in rows), rows


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    """A real pull whose connection breaks after half, interrupted before it is taken up again."""
    with open_site() as site:
        url = f"{site.url}/file.gguf#sha256={sha256(CONTENT)}"
        command = [sys.executable, "-m", "headrace", "pull", url]
        site.cuts, site.delay_s = 1, 1.0
        environ = {**os.environ, "HEADRACE_HOME": str(tmp_path)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
        ) as process:
            end_s = time.monotonic() + 60
            while len(site.paths) < 2:
                assert process.poll() is None and time.monotonic() < end_s, site.paths
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _, shown = process.communicate(timeout=60)
        site.delay_s = 0
        again = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert process.returncode == 130
    end = "\nstopped; kept 500.0 KiB; the same command goes on from there\n"
    assert shown.endswith(end) and "Traceback" not in shown, shown
    assert "going on at 500.0 KiB" in again.stderr
    assert again.returncode == 0


def test_counts_say_what_came_and_what_failed() -> None:
    lines: list[str] = []
    with CountLines(20, "answers", lines.append, FakeClock().monotonic_s) as view:
        for number in range(20):
            view.count(has_failed=number == 3, what="cheap: draft")
        view.say("more")
    assert lines[0] == "2 of 20 answers, cheap: draft"
    assert lines[1] == "4 of 20 answers, cheap: draft, 1 failed"
    assert lines[9:] == ["20 of 20 answers, cheap: draft, 1 failed", "more"]


def test_nothing_to_count_is_no_error() -> None:
    lines: list[str] = []
    with CountLines(0, "answers", lines.append):
        pass
    assert lines == []


def test_what_takes_long_is_told_before_its_tenth() -> None:
    lines: list[str] = []
    clock = FakeClock()
    view = CountLines(100, "answers", lines.append, clock.monotonic_s)
    view.begin("cheap: starting")
    for _ in range(3):
        clock.advance(LINE_EVERY_S / 2)
        view.count(has_failed=False)
    assert lines == ["cheap: starting", "2 of 100 answers"]
