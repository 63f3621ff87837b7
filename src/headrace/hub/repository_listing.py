"""The Hugging Face hub's answer about a repository, checked: its files, their sizes and digests.

In: the bytes of the answer. Out: names, and a ModelFile for each one that is wanted. What a pull
does not need is not looked at, so that a mirror may leave it out. Opens no connection.
Source: https://huggingface.co/docs/hub/api, `GET /api/models/{repo_id}/revision/{revision}`.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import PurePosixPath

from headrace.core.frozen import frozen
from headrace.hub.model_source import HubFile, ModelFile, SourceFailed

_MEND = "Pull again later; if HF_ENDPOINT names a mirror, unset it or name another."
_SHA256 = re.compile(r"[0-9a-f]{64}")


@frozen
class RepositoryListing:
    """The files of a repository. `commit` is what the revision stood for when the hub answered."""

    repo: str
    commit: str | None
    entries: Mapping[str, Mapping[str, object]]

    def file(self, name: str, revision: str) -> ModelFile:
        """One file, at the commit that answered, or at `revision` when the answer names none.

        Raises: SourceFailed for a name that points outside and for sizes and digests that are none.
        """
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name.isprintable():
            raise SourceFailed(f"{self.repo} has a file that points outside: {name!r}")
        entry = self.entries[name]
        size_bytes, sha256 = entry.get("size"), None
        lfs = entry.get("lfs") or None
        if lfs is not None:
            if not isinstance(lfs, Mapping):
                raise malformed(self.repo, f"lfs of {name}", lfs, "an object")
            sha256 = self._sha256(name, lfs.get("sha256"))
            size_bytes = lfs.get("size") if size_bytes is None else size_bytes
        if size_bytes is not None or lfs is not None:
            size_bytes = self._size(name, size_bytes)
        source = HubFile(self.repo, name, self.commit or revision)
        # A GGUF file is a model by itself, wherever it lies; other files belong to a folder.
        kept = path.name if path.suffix == ".gguf" else name
        return ModelFile(kept, size_bytes, sha256, (source,))

    def _size(self, name: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise malformed(self.repo, f"size of {name}", value, "a number of bytes")
        return value

    def _sha256(self, name: str, value: object) -> str:
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise malformed(
                self.repo, f"lfs.sha256 of {name}", value, "64 lower-case hexadecimal digits"
            )
        return value


def parse_listing(repo: str, content: bytes) -> RepositoryListing:
    """Read the answer. Entries stay as they came until a file is asked for.

    Raises: SourceFailed that names what is wrong with the answer.
    """
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        start = content[:40].decode("utf-8", "replace")
        raise malformed(
            repo, "body", start, "JSON; a proxy's login page may stand before"
        ) from None
    if not isinstance(tree, Mapping):
        raise malformed(repo, "body", tree, "an object")
    commit, siblings = tree.get("sha"), tree.get("siblings")
    if commit is not None and (not isinstance(commit, str) or not commit):
        raise malformed(repo, "sha", commit, "a commit")
    if not isinstance(siblings, list):
        raise malformed(repo, "siblings", siblings, "a list of files")
    entries: dict[str, Mapping[str, object]] = {}
    for index, entry in enumerate(siblings):
        if not isinstance(entry, Mapping):
            raise malformed(repo, f"siblings[{index}]", entry, "an object")
        name = entry.get("rfilename")
        if not isinstance(name, str) or not name:
            raise malformed(repo, f"siblings[{index}].rfilename", name, "a file name")
        entries[name] = entry
    return RepositoryListing(repo, commit, entries)


def malformed(repo: str, field: str, value: object, expected: str) -> SourceFailed:
    """The error for an answer that is not what the hub's API promises."""
    given = "missing" if value is None else reprlib.repr(value)
    return SourceFailed(
        f"the hub's answer about {repo} is malformed: {field} is {given}, expected {expected}. "
        f"{_MEND}"
    )
