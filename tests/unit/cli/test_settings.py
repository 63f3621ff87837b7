"""How settings are called in errors: by the flags that `headrace serve` has."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from headrace.cli.app import build_app
from headrace.core.errors import ConfigError

WRONG = {
    "--port": "-1",
    "--memory": "1",
    "--max-num-seqs": "0",
    "--max-num-batched-tokens": "0",
    "--max-model-len": "0",
    "--default-max-tokens": "0",
    "--idle-unload": "0",
    "--threads": "0",
    "--isa": "z80",
    "--kv-cache-dtype": "fp7",
    "--canary": "shout",
    "--log-format": "xml",
    "--unknown-fields": "drop",
    "--ledger": "maybe",
    "--cors-origin": "app.example.org",
}


@pytest.mark.parametrize("flag", WRONG)
def test_an_error_names_the_flag_as_it_is_typed(flag: str) -> None:
    arguments = ["serve", "--no-pull", flag, WRONG[flag]]
    error = CliRunner().invoke(build_app(arguments), arguments).exception
    assert isinstance(error, ConfigError)
    assert error.field == flag
    assert WRONG[flag] in error.message
