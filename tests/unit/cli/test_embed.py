"""`headrace embed` as a process, over a real tiny encoder; and the lines that it reads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.encoders import encoder_folder
from headrace.cli.embed_lines import InputLine, read_inputs
from headrace.core.errors import ConfigError
from headrace.embedder import Embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


def embed(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "headrace",
            "embed",
            "-m",
            str(folder),
            "--threads",
            "1",
            *arguments,
        ],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_pipe_of_json_to_lines(folder: Path) -> None:
    given = ['"the cat"', "", '{"id": 7, "text": "rain"}']
    done = embed(folder, "--input-format", "jsonl", text="\n".join(given))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    with Embedder(folder, num_threads=1) as embedder:
        expected = embedder.embed(["the cat", "rain"])
    assert np.array([row.pop("embedding") for row in rows], np.float32).tobytes() == (
        expected.tobytes()
    )
    assert rows == [{"index": 0}, {"index": 1, "id": 7}]
    assert "2 texts" in done.stderr


def test_a_file_to_an_array(folder: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.npy"
    source.write_text("the cat\nrain\nsnow\n")
    arguments = ["--file", str(source), "--format", "npy", "-o", str(target), "--dimensions", "5"]
    done = embed(folder, *arguments, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert np.load(target).shape == (3, 5)


def test_a_text_that_is_too_long_is_named(folder: Path) -> None:
    done = embed(folder, text="cat\n" + "rain " * 60)
    assert done.returncode == 1
    assert "stdin, line 2" in done.stderr and "--truncate -1" in done.stderr


def test_an_error_leaves_the_file_that_was_there(folder: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    target.write_text("old\n")
    link.symlink_to(target)
    failed = embed(folder, "-o", str(target), text="cat\n" + "rain " * 60)
    assert failed.returncode == 1 and target.read_text() == "old\n"
    assert sorted(tmp_path.iterdir()) == [link, target]
    target.chmod(0o640)
    done = embed(folder, "-o", str(link), text="cat\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(target.read_text())["index"] == 0
    assert link.is_symlink() and target.stat().st_mode & 0o777 == 0o640
    nowhere = embed(folder, "-o", str(tmp_path / "none" / "out.jsonl"), text="cat\n")
    assert nowhere.returncode != 0 and "none/out.jsonl" in nowhere.stderr
    assert embed(folder, "-o", "/dev/null", text="cat\n").returncode == 0


def test_what_would_be_overwritten_is_kept(folder: Path, tmp_path: Path) -> None:
    both = tmp_path / "texts.txt"
    both.write_text("the cat\n")
    done = embed(folder, "--file", str(both), "--output", str(tmp_path / "." / "texts.txt"))
    assert done.returncode != 0 and "--output" in done.stderr and "another file" in done.stderr
    assert both.read_text() == "the cat\n"


@pytest.mark.parametrize(
    ("flag", "value"), [("--truncate", "0"), ("--dtype", "q7"), ("--input-format", "jsonl")]
)
def test_a_wrong_flag_is_named_as_it_was_typed(folder: Path, flag: str, value: str) -> None:
    done = embed(folder, flag, value, "cat")
    assert done.returncode != 0 and f"error: {flag} is " in done.stderr


def lines(given: bytes, input_format: str = "lines", field: str = "text") -> list[InputLine]:
    stdin = io.TextIOWrapper(io.BytesIO(given))
    return list(read_inputs(None, None, stdin, input_format, field))  # type: ignore[arg-type]


def test_lines_are_kept_as_they_are() -> None:
    assert [line.text for line in lines(b"a\r\n \n  b ")] == ["a", " ", "  b "]


def test_a_field_and_an_id() -> None:
    (line,) = lines(b'{"id": "x", "body": "a"}', "jsonl", "body")
    assert (line.text, line.id, line.place) == ("a", "x", "stdin, line 1")


@pytest.mark.parametrize("given", [b"{", b"5", b'{"text": 5}', b'{"other": "a"}', b"[1]"])
def test_a_wrong_line_is_named(given: bytes) -> None:
    with pytest.raises(ConfigError, match="stdin, line 2"):
        lines(b'"fine"\n' + given, "jsonl")


@pytest.mark.parametrize(
    ("given", "kind"), [(b"a\n\nb\n", "lines"), (b'"a"\n{"text": ""}\n', "jsonl")]
)
def test_an_empty_line_is_named(given: bytes, kind: str) -> None:
    with pytest.raises(ConfigError, match="stdin, line 2 is ''; allowed: a text that is not empty"):
        lines(given, kind)


def test_an_empty_argument_is_named_before_a_model_is_loaded(folder: Path) -> None:
    """As the server does."""
    done = embed(folder / "none", "cat", "")
    assert done.returncode == 2 and done.stdout == ""
    assert "TEXT 2 is ''; allowed: a text that is not empty. Leave it out" in done.stderr


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ConfigError, match="line 1"):
        lines(b"\xff\n")


def test_bytes_of_a_file_that_are_no_text_are_the_files(tmp_path: Path) -> None:
    file = tmp_path / "latin1.txt"
    file.write_bytes(b"fine\nna\xefve\n")
    with pytest.raises(ConfigError) as refused:
        list(read_inputs(None, file, None, "lines", "text"))
    assert refused.value.message.startswith(f"{file} is 'na\\xefve\\n'; allowed: text in UTF-8.")
    assert f"{file}, line 2, byte 3 is 0xef" in refused.value.message
    assert "stdin" not in refused.value.message


@pytest.mark.parametrize(("raw", "kind"), [(b"", "lines"), (b"", "jsonl"), (b"\n \n", "jsonl")])
def test_no_text_at_all_is_an_error(raw: bytes, kind: Any) -> None:
    with pytest.raises(ConfigError, match="stdin is ''; allowed: a text on each line, at least"):
        lines(raw, kind)


def test_an_empty_file_is_told_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    done = embed(folder / "none", "--file", str(empty), "--output", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{empty} is ''; allowed: a text on each line" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--file"):
        read_inputs(None, tmp_path / "none", None, "lines", "text")


def test_nothing_to_read() -> None:
    with pytest.raises(ConfigError, match="TEXT"):
        read_inputs(None, None, None, "lines", "text")


@pytest.mark.parametrize(("kind", "raw"), [("lines", b"a\nb"), ("jsonl", b'"a"\n"b"')])
def test_a_mark_of_byte_order_is_no_text(kind: Any, raw: bytes) -> None:
    assert [line.text for line in lines(b"\xef\xbb\xbf" + raw, kind)] == ["a", "b"]
