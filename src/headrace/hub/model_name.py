"""What a person may type for a model: a catalogue name, a hub repository or file, a URL, a path.

In: text. Out: a `ModelName` that says which of these it is. Opens nothing but asks whether a path
exists. Knows nothing of what has been pulled.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from headrace.core.errors import InvalidParameter
from headrace.core.frozen import frozen
from headrace.hub.catalogue import Catalogue, CatalogueEntry
from headrace.hub.model_source import HubFile

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_ALLOWED = "a catalogue name, owner/repo, owner/repo/file.gguf, an https URL, or a path"
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB = re.compile(rf"(?P<repo>{_SEGMENT}/{_SEGMENT})(?:/(?P<file>{_SEGMENT}(?:/{_SEGMENT})*))?")
_HUB_PAGE = re.compile(
    rf"https://(?:huggingface\.co|hf\.co)/(?P<repo>{_SEGMENT}/{_SEGMENT})"
    rf"(?:/(?:blob|resolve)/(?P<revision>{_SEGMENT})/(?P<file>[^?#]+))?/?(?:\?[^#]*)?"
)
# As pages are copied, and as other programs name them.
_HUB_HOSTS = ("huggingface.co/", "hf.co/")
_SHA256_FRAGMENT = re.compile(r"sha256=([0-9a-fA-F]{64})")


@frozen
class ModelName:
    """A name understood. `text` is the one spelling under which the store keeps it."""

    kind: Literal["catalogue", "hub", "url", "path", "unknown"]
    text: str
    entry: CatalogueEntry | None = None
    hub: HubFile | None = None
    path: Path | None = None
    sha256: str | None = None


def parse_name(text: str, catalogue: Catalogue) -> ModelName:
    """Tell what kind of name `text` is. A catalogue name wins over a path of the same spelling.

    Raises: InvalidParameter for text that cannot name a model.
    """
    name = text.strip()
    if not name or "\0" in name or len(name) > 4096:
        raise InvalidParameter("model", text, _ALLOWED)
    entry = catalogue.find(name)
    if entry is not None:
        return ModelName("catalogue", entry.name, entry=entry)
    if name.startswith(_HUB_HOSTS) and not Path(name).exists():
        name = f"https://{name}"
    if "://" in name:
        return _parse_url(name, catalogue)
    path = Path(name).expanduser()
    if name.startswith(("/", "./", "../", "~")) or path.exists():
        return ModelName("path", str(path), path=path)
    match = _HUB.fullmatch(name)
    if match is not None:
        return _hub_name(HubFile(match["repo"], match["file"] or ""), catalogue)
    if name.endswith((".gguf", "/")):
        return ModelName("path", str(path), path=path)
    return ModelName("unknown", name)


def _hub_name(hub: HubFile, catalogue: Catalogue) -> ModelName:
    """Name a repository or file; one that the catalogue also has gets the catalogue's name."""
    for entry in catalogue.entries:
        if hub.file and any(hub in file.sources for file in entry.files):
            return ModelName("catalogue", entry.name, entry=entry)
    text = f"{hub.repo}/{hub.file}" if hub.file else hub.repo
    if hub.revision != "main":
        text = f"{text}@{hub.revision}"
    return ModelName("hub", text, hub=hub)


def _parse_url(text: str, catalogue: Catalogue) -> ModelName:
    page = _HUB_PAGE.fullmatch(text)
    if page is not None:
        file = unquote(page["file"] or "")
        if ".." not in file.split("/"):
            return _hub_name(HubFile(page["repo"], file, page["revision"] or "main"), catalogue)
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise InvalidParameter("model", text, _ALLOWED, f"{error}.") from None
    if parts.scheme == "file":
        return ModelName("path", unquote(parts.path), path=Path(unquote(parts.path)))
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise InvalidParameter("model", text, _ALLOWED)
    if not is_trusted(text):
        allowed = "an https URL, or http on this machine"
        raise InvalidParameter("model", text, allowed, "Others on the way could change the file.")
    digest = _SHA256_FRAGMENT.fullmatch(parts.fragment)
    sha256 = digest[1].lower() if digest else None
    return ModelName("url", urlunsplit(parts._replace(fragment="")), sha256=sha256)


def is_trusted(url: str) -> bool:
    """Whether the address is https, or http on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS)


def url_file_name(url: str) -> str:
    """The plain file name at the end of an address.

    Raises: InvalidParameter unless it is a GGUF file's.
    """
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if not re.fullmatch(r"[^\W.][\w.+ -]*\.gguf", name):
        raise InvalidParameter("model", url, "a URL that ends in the name of a .gguf file")
    return name
