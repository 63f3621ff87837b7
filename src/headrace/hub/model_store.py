"""The folder of models on this machine: resolve a name, pull, list, remove.

In: a name as a person types it. Out: a `LocalModel` whose bytes were checked. Owns the files under
`home/models`; one pull at a time per model, by a lock on a file that the kernel drops with the
process. Knows nothing of what is in a model file.

    home/models/<folder>/model.json          written last: with it, the model is there
    home/models/<folder>/<file>              moved here after its digest was checked
    home/models/<folder>/.<file>.<source>.partial   what an interrupted pull goes on from
    home/locks/<folder>.lock                 while somebody pulls or removes it
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.core.config import HubConfig
from headrace.core.errors import (
    CapacityError,
    ConfigError,
    ModelFileError,
    ModelNotFound,
    ModelSourceError,
)
from headrace.core.frozen import frozen
from headrace.core.near_names import did_you_mean
from headrace.hub.catalogue import Catalogue, CatalogueEntry, load_catalogue
from headrace.hub.file_lock import file_lock
from headrace.hub.manifest import Manifest, check_files, read_manifest, write_manifest
from headrace.hub.model_name import ModelName, parse_name, url_file_name
from headrace.hub.model_source import HttpsFile, ModelFile, SourceFailed
from headrace.hub.pull import Pull, PullProgress, ReportProgress, ignore_progress, remove_bare

logger = logging.getLogger(__name__)

HUB_LISTING = "headrace.hub.huggingface"


@frozen
class LocalModel:
    """A model on this machine. `path` is a GGUF file (the first of a split one), or a folder.

    `sha256` is known for pulled models of one file. Units: bytes.
    """

    path: Path
    name: str
    size_bytes: int
    sha256: str | None = None
    entry: CatalogueEntry | None = None

    @property
    def changed_s(self) -> int:
        """When the file was written: seconds of Unix. Raises: OSError when it is gone."""
        return int(self.path.stat().st_mtime)


class ModelStore:
    """Models by name, under `config.home`.

    Raises: ConfigError when `config.home` is, or lies below, something that is no folder.
    """

    def __init__(self, config: HubConfig, catalogue: Catalogue | None = None) -> None:
        _check_home(config.home)
        self._config = config
        self._catalogue = catalogue or load_catalogue()
        self._models = config.home / "models"
        self._locks = config.home / "locks"

    @property
    def catalogue(self) -> Catalogue:
        return self._catalogue

    def known_names(self) -> tuple[str, ...]:
        """The catalogue's, and of whatever else is on this machine."""
        local = (model.name for model in self.list())
        return tuple(dict.fromkeys((*self._catalogue.names(), *local)))

    def resolve(self, name: str) -> LocalModel:
        """Find a model that is on this machine, by any name it can be pulled under, or by path.

        Raises: ModelNotFound with what to do, ModelFileError, DigestMismatch, InvalidParameter.
        """
        parsed = parse_name(name, self._catalogue)
        if parsed.kind == "path" and parsed.path is not None:
            return self._resolve_path(parsed.path)
        folder = self._folder(parsed)
        manifest = read_manifest(folder)
        if manifest is not None:
            checked = check_files(folder, manifest)
            if checked != manifest:
                self._remember(folder, checked)
            return self._local(folder, checked)
        loose = self._models / f"{name}.gguf"
        if parsed.kind == "unknown" and "/" not in name and loose.is_file():
            return self._resolve_path(loose)
        raise self._not_found(parsed)

    def pull(self, name: str, progress: ReportProgress = ignore_progress) -> LocalModel:
        """Fetch a model unless it is here, from the first source that delivers the right bytes.

        Goes on where an earlier pull stopped. A second pull of the same model waits for the first.
        Raises: ModelNotFound, ModelSourceError, DiskFull, ModelFileError, InvalidParameter.
        """
        parsed = parse_name(name, self._catalogue)
        if parsed.kind == "unknown":
            raise self._not_found(parsed)
        if parsed.kind == "path" and parsed.path is not None:
            return self._resolve_path(parsed.path)
        folder = self._folder(parsed)
        with self._locked(folder, parsed.text, progress):
            manifest = self._still_good(folder)
            if manifest is None:
                files = self._list_files(parsed)
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    manifest = Pull(self._config, parsed.text, folder, progress).run(files)
                finally:
                    remove_bare(folder)
        progress(PullProgress(parsed.text, manifest.files[0].name, "done"))
        return self._local(folder, manifest)

    def list(self) -> list[LocalModel]:
        """Every model in the store, and GGUF files that somebody put into its folder."""
        found = []
        for path in sorted(self._models.iterdir()) if self._models.is_dir() else ():
            try:
                manifest = read_manifest(path)
            except ModelFileError as error:
                logger.warning("%s", error)
                continue
            if manifest is not None:
                found.append(self._local(path, manifest))
            elif path.is_file() and path.suffix == ".gguf":
                found.append(self._resolve_path(path))
        return found

    def remove(self, name: str) -> int:
        """Delete a model and what interrupted pulls of it left; returns the bytes freed.

        Raises: ModelNotFound, CapacityError while it is being pulled, InvalidParameter for a path
        outside the store.
        """
        place = self.check_removable(name)
        if place.is_file():
            num_bytes = place.stat().st_size
            place.unlink()
            return num_bytes
        folder = place
        with self._locked(folder, name, progress=None):
            num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            # First the manifest: a removal that is interrupted leaves no model that looks whole.
            (folder / "model.json").unlink(missing_ok=True)
            shutil.rmtree(folder)
        return num_bytes

    def check_removable(self, name: str) -> Path:
        """The file or folder that `remove` would delete.

        Raises: ModelNotFound, InvalidParameter.
        """
        parsed = parse_name(name, self._catalogue)
        loose = self._models / f"{name}.gguf"
        if parsed.kind == "unknown" and "/" not in name and loose.is_file():
            return loose
        folder = self._folder(parsed)
        if parsed.kind in ("path", "unknown") or not folder.is_dir():
            hint = "Only models in the store are removed; a file given by path is yours to delete."
            what = hint if parsed.kind == "path" else ""
            near = did_you_mean(name, [model.name for model in self.list()])
            raise ModelNotFound(name, (), " ".join(filter(None, (what, near, self._say_local()))))
        return folder

    def partial_bytes(self, name: str) -> int:
        """What an interrupted pull of this model left, and the next one goes on from."""
        folder = self._folder(parse_name(name, self._catalogue))
        return sum(path.stat().st_size for path in folder.glob(".*.partial") if path.is_file())

    def _resolve_path(self, path: Path) -> LocalModel:
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise ModelFileError(
                    f"{path} is a folder without config.json. Give a GGUF file, or a folder with "
                    "config.json, tokenizer.json and safetensors."
                )
            num_bytes = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
            return LocalModel(path.absolute(), path.absolute().name, num_bytes)
        if not path.is_file():
            raise ModelNotFound(str(path), (), _say_no_file(path))
        return LocalModel(path.absolute(), path.stem, path.stat().st_size)

    def _local(self, folder: Path, manifest: Manifest) -> LocalModel:
        is_single = len(manifest.files) == 1
        return LocalModel(
            path=folder if manifest.is_folder else folder / manifest.files[0].name,
            name=manifest.name,
            size_bytes=manifest.size_bytes,
            sha256=manifest.files[0].sha256 if is_single else None,
            entry=self._catalogue.find(manifest.name),
        )

    def _folder(self, parsed: ModelName) -> Path:
        """The model's folder: a readable form of its name, with a digest unless it is ours."""
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", parsed.text).strip("-.")[-80:]
        if parsed.kind != "catalogue":
            readable += "-" + hashlib.sha256(parsed.text.encode()).hexdigest()[:10]
        return self._models / readable

    def _not_found(self, parsed: ModelName) -> ModelNotFound:
        if parsed.kind == "unknown":
            hint = "`headrace models` lists names; owner/repo, a URL or a path work too."
            return ModelNotFound(parsed.text, self.known_names(), hint)
        hint = f"Fetch it with `headrace pull {parsed.text}`. {self._say_local()}"
        if parsed.kind == "hub" and parsed.text.endswith(".gguf"):
            # `folder/model.gguf` may mean either.
            hint = f"{_say_no_file(Path(parsed.text))} {hint}"
        return ModelNotFound(parsed.text, (), hint)

    def _say_local(self) -> str:
        names = ", ".join(model.name for model in self.list())
        return f"On this machine: {names or 'no model yet'}."

    def _still_good(self, folder: Path) -> Manifest | None:
        """The manifest when all files are as they were; None when there is something to fetch."""
        try:
            manifest = read_manifest(folder)
            return check_files(folder, manifest) if manifest is not None else None
        except ModelFileError as error:
            logger.warning("%s Fetching it again.", error)
            (folder / "model.json").unlink(missing_ok=True)
            return None

    def _remember(self, folder: Path, manifest: Manifest) -> None:
        try:
            write_manifest(folder, manifest)
        except OSError as error:
            # A store that is mounted read-only still serves; it is hashed again next time.
            logger.info("cannot update %s: %s", folder, error)

    def _list_files(self, parsed: ModelName) -> tuple[ModelFile, ...]:
        if parsed.entry is not None:
            return parsed.entry.files
        if self._config.offline:
            raise ModelSourceError(parsed.text, [("offline", "set HEADRACE_OFFLINE=0 to fetch it")])
        if parsed.hub is not None:
            listing = importlib.import_module(HUB_LISTING)
            try:
                files: tuple[ModelFile, ...] = listing.list_files(parsed.hub, self._config)
            except SourceFailed as error:
                source = f"huggingface {parsed.hub.repo}"
                raise ModelSourceError(parsed.text, [(source, error.message)]) from None
            return files
        name = url_file_name(parsed.text)
        return (ModelFile(name, None, parsed.sha256, (HttpsFile(parsed.text),)),)

    @contextmanager
    def _locked(self, folder: Path, name: str, progress: ReportProgress | None) -> Iterator[None]:
        """Hold the model's lock. With `progress`, wait for it; without, refuse when it is taken."""

        def busy() -> None:
            if progress is None:
                text = f"{name!r} is being pulled by another process; try again when it is done."
                raise CapacityError(text)
            progress(PullProgress(name, "", "waiting", detail="another process pulls it"))

        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # of /proc and the like
            raise _wrong_home(self._config.home, "No folder can be made there.") from None
        with file_lock(self._locks / f"{folder.name}.lock", busy):
            yield


def _say_no_file(path: Path) -> str:
    where = "" if path.is_absolute() else f" (looked in {Path.cwd()})"
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}, which leads nowhere{where}."
    if os.path.lexists(path):
        return f"{path} is neither a file nor a folder{where}."
    return f"There is no file or folder {path}{where}."


def _check_home(home: Path) -> None:
    """Raises: ConfigError when no folder is, or can be made, there."""
    # Below a file the system says "not a directory" instead of "not there".
    for path in (home, *home.parents):
        try:
            kind = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            # What cannot be looked at is for whoever wants to write there.
            return
        if not stat.S_ISDIR(kind):
            what = "It" if path == home else str(path)
            raise _wrong_home(home, f"{what} is a file.")
        return


def _wrong_home(home: Path, reason: str) -> ConfigError:
    return ConfigError(
        "hub.home (HEADRACE_HOME)",
        str(home),
        "a folder, or a place where one can be made",
        f"{reason} Name another folder, or leave it out for ~/.cache/headrace.",
    )
