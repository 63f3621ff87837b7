"""The wheel in a fresh environment: its size with everything it needs, and that it works there.

Needs a package index; without one the tests are skipped and say so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from programs import Result, environment

ROOT = Path(__file__).parents[2]
MB = 1000**2
# The limits; vLLM for CPU takes 3.4 GB, numpy alone 73 MB.
MAX_INSTALLED_BYTES = 250 * MB
MAX_DOWNLOADED_BYTES = 100 * MB
QUESTION = "What is 2 + 2? Answer with the number only."

pytestmark = [pytest.mark.network, pytest.mark.timeout(1000)]


@dataclass(frozen=True)
class Installed:
    """A fresh environment with headrace and its dependencies. Units: bytes."""

    folder: Path
    downloaded_bytes: int

    @property
    def site_packages(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def run(self, *command: str | Path) -> Result:
        """Run a program of the environment; the checkout is not on its path."""
        name, *arguments = map(str, command)
        env = {key: text for key, text in environment().items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [self.folder / "bin" / name, *arguments],
            capture_output=True, text=True, check=False, env=env, cwd=self.folder, input="",
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # Warnings of pip's own modules are not ours to fail on.
    env = {name: text for name, text in os.environ.items() if name != "PYTHONWARNINGS"}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, check=False, env=env
    )


def check(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr[-4000:]


def build_wheel(folder: Path) -> Path:
    """Build the wheel. The objects of a developer's build are the same; a fresh clone has none."""
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    built = sorted((ROOT / "build").glob("editable-*"))
    if built:
        options += ["--config-settings", f"build-dir={built[0]}"]
    check(pip("wheel", ROOT, *options))
    (wheel,) = folder.glob("headrace-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("install")
    probe = pip("download", "--no-deps", "--no-cache-dir", "--dest", folder / "probe", "typer")
    if probe.returncode:
        pytest.skip(f"pip reaches no package index: {probe.stderr.strip().splitlines()[-1]}")
    wheel = build_wheel(folder / "wheel")
    check(pip("download", "--dest", folder / "all", wheel))
    venv.create(folder / "venv", with_pip=False)
    target = ["--python", folder / "venv" / "bin" / "python"]
    check(pip(*target, "install", "--no-index", "--find-links", folder / "all", wheel))
    sizes = [path.stat().st_size for path in (folder / "all").iterdir()]
    return Installed(folder / "venv", sum(sizes))


def test_the_sizes(installed: Installed) -> None:
    files = [path for path in installed.site_packages.rglob("*") if path.is_file()]
    total_bytes = sum(path.stat().st_size for path in files)
    print(f"{total_bytes / MB:.0f} MB, {installed.downloaded_bytes / MB:.0f} MB downloaded")  # noqa: T201
    assert total_bytes < MAX_INSTALLED_BYTES
    assert installed.downloaded_bytes < MAX_DOWNLOADED_BYTES


def test_no_torch_comes_along(installed: Installed) -> None:
    names = {path.name.partition("-")[0].lower() for path in installed.site_packages.iterdir()}
    assert names & {"torch", "triton", "transformers", "scipy", "pandas", "onnxruntime"} == set()


def test_the_command_works_there(installed: Installed) -> None:
    version = installed.run("headrace", "--version")
    assert (version.code, version.stdout) == (0, "headrace 0.1.0\n")
    found = installed.run("headrace", "env")
    assert found.code == 0, found.stderr
    assert str(installed.folder) in found.stdout
    assert "device    cpu" in found.stdout


def test_it_answers_there(installed: Installed, qwen05_path: Path) -> None:
    answer = installed.run("headrace", "run", QUESTION, "--model", qwen05_path)
    assert (answer.code, answer.stdout) == (0, "4\n"), answer.stderr


@pytest.mark.parametrize(
    "module",
    [
        "server.run",
        "launch.serve",
        "hub.huggingface",
        "cli.serve",
        "cli.bench",
        "weights.safetensors",
    ],
)
def test_every_dependency_is_declared(installed: Installed, module: str) -> None:
    imported = installed.run("python", "-W", "error", "-c", f"import headrace.{module}")
    assert imported.code == 0, imported.stderr
