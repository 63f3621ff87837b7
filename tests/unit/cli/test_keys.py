"""`headrace keys`: the secret goes to stdout, once; everything else can be shown again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headrace.cli.app import build_app
from headrace.core.errors import ConfigError, HeadraceError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path))
    monkeypatch.delenv("HEADRACE_DATABASE", raising=False)
    monkeypatch.delenv("HEADRACE_CONFIG", raising=False)
    return tmp_path


def keys(*words: str) -> Result:
    arguments = ["keys", *words]
    return CliRunner().invoke(build_app(arguments), arguments, catch_exceptions=True)


def test_a_key_from_its_making_to_its_end(home: Path) -> None:
    made = keys("create", "ci", "--tenant", "acme", "--scope", "metrics", "--scope", "inference",
                "--requests-per-minute", "60", "--max-concurrent-requests", "4")  # fmt: skip
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    assert secret.startswith("hr_")
    assert "key ci for tenant acme (inference, metrics)" in made.stderr
    assert str(home / "headrace.db") in made.stderr

    listed = keys("list")
    assert secret not in listed.output
    assert "60 requests/min, 4 at a time" in listed.stdout
    (row,) = json.loads(keys("list", "--json").stdout)
    assert secret.startswith(row["prefix"] + "_")
    assert (row["scopes"], row["revoked_at_s"]) == (["inference", "metrics"], None)
    assert set(row) & {"secret", "digest"} == set()

    assert keys("revoke", "ci").exit_code == 0
    (row,) = json.loads(keys("list", "--json").stdout)
    assert row["revoked_at_s"] >= row["created_at_s"]


def test_revoking_the_last_key_says_that_nobody_gets_in(home: Path) -> None:
    for name in ("ci", "app"):
        assert keys("create", name).exit_code == 0
    first, last = keys("revoke", "ci"), keys("revoke", "app")
    assert first.stderr == ""
    assert "answer nobody" in last.stderr and "headrace keys create" in last.stderr
    assert last.stdout.endswith("is revoked\n")


def test_a_key_may_have_an_end(home: Path) -> None:
    made = keys("create", "guest", "--expires", "2h")
    assert made.exit_code == 0, made.output
    (row,) = json.loads(keys("list", "--json").stdout)
    assert row["expires_at_s"] == pytest.approx(row["created_at_s"] + 7200, abs=60)
    assert "in use until 2" in " ".join(keys("list").stdout.split())
    assert "until 2" in made.stderr
    moved = keys("change", "guest", "--expires", "2999-12-31")
    assert moved.stdout.endswith("ends 2999-12-31 00:00 UTC\n")
    endless = keys("change", "guest", "--expires", "never", "--priority", "4")
    assert endless.stdout.endswith("has priority 4 and never expires\n")
    assert json.loads(keys("list", "--json").stdout)[0]["expires_at_s"] is None


def test_the_database_can_be_named(home: Path) -> None:
    made = keys("create", "ci", "--database", f"sqlite:///{home / 'other.db'}")
    assert made.exit_code == 0, made.output
    assert (home / "other.db").exists()
    assert not (home / "headrace.db").exists()


def test_a_folder_that_is_not_there_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_DATABASE", f"sqlite:///{home}/mistyped/a.db")
    for words in (("create", "ci"), ("list",), ("revoke", "ci")):
        error = keys(*words).exception
        assert isinstance(error, ConfigError)
        assert f"{home}/mistyped does not exist: create it" in error.message
    assert list(home.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_an_error(home: Path) -> None:
    (home / "file").touch()
    for words in (("create", "ci"), ("list",), ("revoke", "ci")):
        error = keys(*words, "--database", f"sqlite:///{home}/file/a.db").exception
        assert isinstance(error, ConfigError)
        assert f"{home}/file is a file: name another place" in error.message


def test_looking_makes_no_database(home: Path) -> None:
    assert json.loads(keys("list", "--json").stdout) == []
    assert keys("list").stderr == f"sqlite:///{home}/headrace.db does not exist yet\n"
    revoked = keys("revoke", "ci")
    assert isinstance(revoked.exception, HeadraceError)
    assert "There is no key" in revoked.exception.message
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("create", "ci", "--scope", "root"), "--scope"),
        (("create", "ci", "--requests-per-minute", "0"), "--requests-per-minute"),
        (("create", "ci", "--input-tokens-per-minute", "many"), "--input-tokens-per-minute"),
        (("create", " "), "name"),
        (("create", "ci", "--expires", "soon"), "--expires"),
        (("create", "ci", "--expires", "0d"), "--expires"),
        (("create", "ci", "--expires", "2001-01-01"), "--expires"),
        (("change", "ci", "--expires", "9999-13-01"), "--expires"),
        (("change", "ci"), "--priority"),
        (("list", "--database", "mysql://u:pw@h/d"), "store.database_url"),
        (("list", "--database", "nothing"), "--database"),
    ],
)
def test_bad_words_are_named(words: tuple[str, ...], field: str) -> None:
    error = keys(*words).exception
    assert isinstance(error, ConfigError)
    assert error.field == field
    assert "pw" not in error.message
