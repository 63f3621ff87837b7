"""Source: a file over https, resumed with Range requests.

In: an address. Out: the bytes appended to a partial file. Follows few redirects and only to https;
plain http is accepted for this machine alone. Proxies of the environment are honoured, as urllib
does. A connection that breaks is taken up again as long as bytes keep coming.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

from headrace.core.config import HubConfig
from headrace.core.units import format_bytes
from headrace.hub.model_name import is_trusted
from headrace.hub.model_source import HttpsFile, ModelFile, ReportBytes, SourceFailed

CHUNK_BYTES = 1024**2
MAX_REDIRECTS = 5
MAX_FRUITLESS_TRIES = 3
READ_TIMEOUT_S = 30.0
_LENGTH = re.compile(r"[0-9]{1,15}")
# A strong validator that may be sent back. Source: RFC 9110, section 8.8.3, ASCII alone.
_STRONG_ETAG = re.compile(r'"[!#-~]*"')
_RESUMABLE = (http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


class HttpsSource:
    """Fetches one address. `headers` go to its host alone, not to where it redirects."""

    def __init__(
        self,
        spec: HttpsFile,
        config: HubConfig,
        headers: Mapping[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
        retry_delay_s: float = 1.0,
    ) -> None:
        self._url = spec.url
        self._connect_timeout_s = config.connect_timeout_s
        self._headers = dict(headers or {})
        self._read_timeout_s = read_timeout_s
        self._retry_delay_s = retry_delay_s
        self._opener = urllib.request.build_opener(_StrictRedirects())

    @property
    def label(self) -> str:
        return public_url(self._url)

    def fetch(self, file: ModelFile, partial: Path, report: ReportBytes) -> None:
        check_scheme(self._url)
        check_reachable(self._url, self._connect_timeout_s)
        num_fruitless = 0
        while True:
            start_bytes = _size_of(partial)
            try:
                self._fetch_rest(file, partial, report)
                return
            except _Outdated:
                partial.unlink()
            except _Interrupted as error:
                num_fruitless = 0 if _size_of(partial) > start_bytes else num_fruitless + 1
                if num_fruitless >= MAX_FRUITLESS_TRIES:
                    raise SourceFailed(str(error)) from None
                time.sleep(self._retry_delay_s * num_fruitless)

    def _fetch_rest(self, file: ModelFile, partial: Path, report: ReportBytes) -> None:
        """Open one connection and append what it gives.

        Raises: _Interrupted when the connection broke and a new one may go on.
        """
        stamp = partial.with_name(partial.name + ".etag")
        # Without a digest only an unchanged validator proves that the rest belongs to the start.
        known = _validator(_read_text(stamp))
        can_resume = bool(known) or file.sha256 is not None
        start_bytes = _size_of(partial) if can_resume else 0
        with self._open(start_bytes, known) as response:
            offset = _offset_of(response, start_bytes)
            length = response.headers.get("Content-Length", "")
            total_bytes = offset + int(length) if _LENGTH.fullmatch(length) else file.size_bytes
            _check_size(total_bytes, file)
            validator = _validator(response.headers.get("ETag") or "")
            if validator:
                stamp.write_text(validator, encoding="utf-8")
            elif offset == 0:
                stamp.unlink(missing_ok=True)
            self._copy(response, partial, offset, total_bytes, report)
        if total_bytes is not None and _size_of(partial) < total_bytes:
            got = format_bytes(_size_of(partial))
            raise _Interrupted(f"the connection ended after {got} of {format_bytes(total_bytes)}")
        stamp.unlink(missing_ok=True)

    def _open(self, start_bytes: int, validator: str) -> Any:
        request = urllib.request.Request(self._url, headers={"User-Agent": "headrace"})  # noqa: S310 - scheme checked
        request.add_header("Accept-Encoding", "identity")
        if start_bytes:
            request.add_header("Range", f"bytes={start_bytes}-")
            if validator:
                request.add_header("If-Range", validator)
        for name, value in self._headers.items():
            request.add_unredirected_header(name, value)
        try:
            return self._opener.open(request, timeout=self._read_timeout_s)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416 and start_bytes:
                    return _nothing_left(error, start_bytes)
                if error.code in (408, 429, 500, 502, 503, 504):
                    raise _Interrupted(f"HTTP {error.code} {error.reason}") from None
                raise SourceFailed(_explain_status(error.code, str(error.reason))) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, _RESUMABLE) and not _is_untrusted(error.reason):
                raise _Interrupted(f"no answer: {error.reason}") from None
            raise SourceFailed(f"cannot connect: {error.reason}") from None
        except (ValueError, http.client.InvalidURL) as error:
            raise SourceFailed(
                f"its address, or one it redirects to, cannot be used ({error}); in an address "
                "percent-encode what is not ASCII"
            ) from None
        except _RESUMABLE as error:
            raise _Interrupted(f"no answer: {error or type(error).__name__}") from None

    def _copy(
        self,
        response: Any,
        partial: Path,
        offset: int,
        total_bytes: int | None,
        report: ReportBytes,
    ) -> None:
        with partial.open("r+b" if offset else "wb") as out:
            out.seek(offset)
            out.truncate()
            done_bytes = offset
            report(done_bytes, total_bytes)
            while True:
                try:
                    chunk = response.read1(CHUNK_BYTES)
                except _RESUMABLE as error:
                    raise _Interrupted(f"the connection broke: {error}") from None
                if not chunk:
                    return
                done_bytes += len(chunk)
                if total_bytes is not None and done_bytes > total_bytes:
                    raise SourceFailed(f"the server sent more than {total_bytes} bytes")
                out.write(chunk)
                report(done_bytes, total_bytes)


class _Interrupted(Exception):
    """The connection failed in a way that another one may not."""


class _Outdated(Exception):
    """The partial file is longer than the file there: it is the start of something else."""


class _NothingLeft:
    """Answers in place of a response when the partial file is already whole."""

    def __init__(self, num_bytes: int) -> None:
        self.status = 206
        self.headers = {"Content-Range": f"bytes {num_bytes}-{num_bytes}/{num_bytes}"}
        self.headers["Content-Length"] = "0"

    def __enter__(self) -> _NothingLeft:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def read1(self, _: int) -> bytes:
        return b""


class _StrictRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, and never from https to http."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        try:
            check_scheme(newurl)
        except SourceFailed:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def check_scheme(url: str) -> None:
    """Raises: SourceFailed unless the address is https, or http on this machine."""
    if not is_trusted(url):
        raise SourceFailed(f"{public_url(url)} is not https; other addresses are not trusted")


def check_reachable(url: str, timeout_s: float) -> None:
    """Open and close a connection within the time, name lookup and every address included.

    A blocked network may otherwise hold each address of a name for a time-out of its own.
    Raises: SourceFailed.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceFailed(f"{url!r} is no address: {error}") from None
    host = parts.hostname or ""
    if parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
        return
    outcome: list[str] = []

    def connect() -> None:
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((host, port), timeout_s).close()
            outcome.append("")
        except (OSError, ValueError) as error:
            outcome.append(str(error) or type(error).__name__)

    thread = threading.Thread(target=connect, daemon=True, name="headrace-reach")
    thread.start()
    thread.join(timeout_s)
    reason = outcome[0] if outcome else f"no connection within {timeout_s:g} s"
    if reason:
        raise SourceFailed(f"cannot reach {host}: {reason}")


def public_url(url: str) -> str:
    """The address without user, password and query, which may hold secrets."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def _offset_of(response: Any, start_bytes: int) -> int:
    """Where the body begins: the start of the wanted range, or 0 when the server sends it all."""
    if response.status != 206:
        return 0
    content_range = str(response.headers.get("Content-Range", ""))
    if not content_range.startswith(f"bytes {start_bytes}-"):
        raise SourceFailed(f"the server answered with another range: {content_range or 'none'}")
    return start_bytes


def _nothing_left(error: urllib.error.HTTPError, start_bytes: int) -> _NothingLeft:
    """Tell a partial file that is already whole from one that belongs to another file."""
    if str(error.headers.get("Content-Range", "")) == f"bytes */{start_bytes}":
        return _NothingLeft(start_bytes)
    raise _Outdated


def _check_size(total_bytes: int | None, file: ModelFile) -> None:
    if file.size_bytes is not None and total_bytes != file.size_bytes:
        raise SourceFailed(f"the file there has {total_bytes} bytes, expected {file.size_bytes}")


def _explain_status(code: int, reason: str) -> str:
    if 300 <= code < 400:
        return f"more than {MAX_REDIRECTS} redirects, or a circle of them"
    if code in (401, 403):
        return f"HTTP {code} {reason}: access needs a login, or the licence is not accepted there"
    return f"HTTP {code} {reason}"


def _is_untrusted(reason: object) -> bool:
    return isinstance(reason, ssl.SSLCertVerificationError)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""


def _validator(etag: str) -> str:
    """The validator when it is strong and well-formed, else nothing."""
    return etag if _STRONG_ETAG.fullmatch(etag) else ""
