"""The https source against a real server that cuts, stalls, redirects and lies."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from fakes.download_site import CONTENT, Site, make_file
from headrace.core.config import HubConfig
from headrace.hub.https import HttpsSource, check_reachable, check_scheme, public_url
from headrace.hub.model_source import HttpsFile, ModelFile, SourceFailed


def fetch(
    url: str, config: HubConfig, partial: Path, file: ModelFile | None = None, **options: float
) -> list[tuple[int, int | None]]:
    moments: list[tuple[int, int | None]] = []
    source = HttpsSource(HttpsFile(url), config, retry_delay_s=0.0, **options)  # type: ignore[arg-type]
    source.fetch(file or make_file(), partial, lambda *moment: moments.append(moment))
    return moments


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    return tmp_path / "tiny.partial"


def test_fetches_and_reports_progress(site: Site, config: HubConfig, partial: Path) -> None:
    moments = fetch(f"{site.url}/file.gguf", config, partial)
    assert partial.read_bytes() == CONTENT
    assert moments[0] == (0, len(CONTENT))
    assert moments[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in moments] == sorted(done for done, _ in moments)


def test_takes_up_a_cut_connection_where_it_broke(
    site: Site, config: HubConfig, partial: Path
) -> None:
    site.cuts = 3
    fetch(f"{site.url}/file.gguf", config, partial)
    assert partial.read_bytes() == CONTENT
    ranges = [headers.get("Range") for _, headers in site.requests]
    half = len(CONTENT) // 2
    assert ranges[:2] == [None, f"bytes={half}-"]
    assert len(ranges) == 4


def test_goes_on_with_a_partial_file_of_an_earlier_pull(
    site: Site, config: HubConfig, partial: Path
) -> None:
    partial.write_bytes(CONTENT[:1000])
    moments = fetch(f"{site.url}/file.gguf", config, partial)
    assert partial.read_bytes() == CONTENT
    assert moments[0] == (1000, len(CONTENT))
    assert site.requests[0][1]["Range"] == "bytes=1000-"


def test_starts_over_when_the_server_ignores_ranges(
    site: Site, config: HubConfig, partial: Path
) -> None:
    partial.write_bytes(b"x" * 1000)
    fetch(f"{site.url}/norange.gguf", config, partial)
    assert partial.read_bytes() == CONTENT


def test_starts_over_when_the_file_changed_meanwhile(
    site: Site, config: HubConfig, partial: Path
) -> None:
    site.cuts = 1
    unnamed = ModelFile("tiny.gguf", None, None, ())
    old = partial.with_name(partial.name + ".etag")
    partial.write_bytes(b"old bytes of another version")
    old.write_text('"v0"')
    fetch(f"{site.url}/file.gguf", config, partial, unnamed)
    assert partial.read_bytes() == CONTENT
    assert site.requests[0][1]["If-Range"] == '"v0"'
    assert not old.exists()


def test_does_not_resume_without_digest_and_validator(
    site: Site, config: HubConfig, partial: Path
) -> None:
    site.etag = None
    partial.write_bytes(b"from who knows where")
    fetch(f"{site.url}/file.gguf", config, partial, ModelFile("tiny.gguf", None, None, ()))
    assert partial.read_bytes() == CONTENT
    assert "Range" not in site.requests[0][1]


def test_a_whole_partial_file_needs_no_bytes(site: Site, config: HubConfig, partial: Path) -> None:
    partial.write_bytes(CONTENT)
    fetch(f"{site.url}/file.gguf", config, partial)
    assert partial.read_bytes() == CONTENT


def test_a_partial_file_that_is_too_long_is_dropped(
    site: Site, config: HubConfig, partial: Path
) -> None:
    partial.write_bytes(CONTENT + b"more")
    fetch(f"{site.url}/file.gguf", config, partial)
    assert partial.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/status/404", "HTTP 404"),
        ("/status/403", "access needs a login"),
        ("/status/503", "HTTP 503"),
        ("/loop", "more than 5 redirects"),
        ("/redirect/6", "more than 5 redirects"),
        ("/away", "http://example.com/file.gguf is not https"),
    ],
)
def test_says_why_it_failed(
    path: str, reason: str, site: Site, config: HubConfig, partial: Path
) -> None:
    with pytest.raises(SourceFailed) as failure:
        fetch(site.url + path, config, partial)
    assert reason in failure.value.message


@pytest.mark.parametrize("length", ["\u00b2".encode("latin-1"), b"9" * 5000, b"-5", b"many"])
def test_a_length_that_is_no_number_is_none(
    length: bytes, site: Site, config: HubConfig, partial: Path
) -> None:
    site.raw = b"HTTP/1.0 200 OK\r\nContent-Length: " + length + b"\r\n\r\nGGUF"
    fetch(f"{site.url}/raw", config, partial, make_file(content=b"GGUF"))
    assert partial.read_bytes() == b"GGUF"


@pytest.mark.parametrize(
    "target", ["http://[bad", "https://\u00fc..\u00e9/x", "https://host:abc/x", "https://a b/x"]
)
def test_a_redirect_to_no_address(
    target: str, site: Site, config: HubConfig, partial: Path
) -> None:
    site.raw = b"HTTP/1.0 302 Found\r\nLocation: " + target.encode("latin-1") + b"\r\n\r\n"
    with pytest.raises(SourceFailed):
        fetch(f"{site.url}/raw", config, partial)


def test_an_address_that_is_not_ascii(site: Site, config: HubConfig, partial: Path) -> None:
    with pytest.raises(SourceFailed, match="percent-encode what is not ASCII"):
        fetch(f"{site.url}/\u00e9.gguf", config, partial)


def test_an_endpoint_that_is_no_address() -> None:
    with pytest.raises(SourceFailed, match=r"'http://\[hub' is no address: Invalid IPv6"):
        check_reachable("http://[hub", 1.0)


@pytest.mark.parametrize("etag", ['"a\r\n b"', '"\u00e9"', 'W/"weak"', "bare"])
def test_a_validator_that_cannot_be_sent_back_is_not_kept(
    etag: str, site: Site, config: HubConfig, partial: Path
) -> None:
    head = f"HTTP/1.0 200 OK\r\nContent-Length: 5\r\nETag: {etag}\r\n\r\n"
    site.raw = head.encode("latin-1") + b"GG"
    with pytest.raises(SourceFailed, match="ended after 2 B of 5 B"):
        fetch(f"{site.url}/raw", config, partial, ModelFile("a.gguf", None, None, ()))
    assert not partial.with_name(partial.name + ".etag").exists()


@pytest.mark.parametrize("notes", [b"\xff\xfe", b"", b'"a\nb"'])
def test_a_damaged_validator_begins_anew(
    notes: bytes, site: Site, config: HubConfig, partial: Path
) -> None:
    partial.write_bytes(b"other")
    partial.with_name(partial.name + ".etag").write_bytes(notes)
    fetch(f"{site.url}/file.gguf", config, partial, ModelFile("a.gguf", None, None, ()))
    assert partial.read_bytes() == CONTENT


def test_follows_a_few_redirects(site: Site, config: HubConfig, partial: Path) -> None:
    fetch(f"{site.url}/redirect/3", config, partial)
    assert partial.read_bytes() == CONTENT


def test_headers_stay_with_the_first_host(site: Site, config: HubConfig, partial: Path) -> None:
    source = HttpsSource(
        HttpsFile(f"{site.url}/redirect/1"), config, {"Authorization": "Bearer secret"}
    )
    source.fetch(make_file(), partial, lambda *_: None)
    assert site.requests[0][1]["Authorization"] == "Bearer secret"
    assert "Authorization" not in site.requests[1][1]


def test_refuses_a_file_of_another_size_before_reading_it(
    site: Site, config: HubConfig, partial: Path
) -> None:
    with pytest.raises(SourceFailed, match=f"has {len(CONTENT)} bytes, expected 5"):
        fetch(f"{site.url}/file.gguf", config, partial, make_file(content=b"other"))
    assert not partial.exists()


def test_gives_up_on_a_server_that_stalls(site: Site, config: HubConfig, partial: Path) -> None:
    site.delay_s = 0.5
    with pytest.raises(SourceFailed, match="no answer"):
        fetch(f"{site.url}/file.gguf", config, partial, read_timeout_s=0.05)


def test_an_address_that_accepts_nothing_fails_in_the_connect_timeout() -> None:
    with socket.socket() as blocked:
        # A listener whose queue is full leaves further connections without an answer.
        blocked.bind(("127.0.0.1", 0))
        blocked.listen(0)
        port = blocked.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        start_s = time.monotonic()
        with pytest.raises(SourceFailed, match=r"cannot reach 127\.0\.0\.1"):
            check_reachable(f"http://127.0.0.1:{port}/x", 0.3)
        assert time.monotonic() - start_s < 30.0  # the system would try for two minutes
        for filler in fillers:
            filler.close()


def test_a_closed_port_is_refused_at_once(config: HubConfig, partial: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SourceFailed, match=r"cannot reach 127\.0\.0\.1"):
        fetch(f"http://127.0.0.1:{port}/file.gguf", config, partial)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a",
        "ftp://example.com/a",
        "file:///etc/passwd",
        "http://localhost.evil.com/",
    ],
)
def test_only_https_is_trusted(url: str) -> None:
    with pytest.raises(SourceFailed, match="is not https"):
        check_scheme(url)


def test_secrets_in_an_address_are_not_shown() -> None:
    shown = public_url("https://user:pass@example.com:8443/a/b.gguf?token=secret#x")
    assert shown == "https://example.com:8443/a/b.gguf"
