"""Addresses: taken, wrong, and which of them other machines reach."""

from __future__ import annotations

import pytest

from headrace.core.errors import ConfigError
from headrace.server.listener import listen
from headrace.server.run import address_of


def test_port_zero_takes_a_free_one() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener) == f"http://127.0.0.1:{port}"


def test_a_port_in_use_is_one_sentence() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError) as taken:
            listen("127.0.0.1", port)
    assert taken.value.message == (
        f"server.port is {port}; allowed: a free port. Something listens on 127.0.0.1:{port} "
        "already; stop it, or choose another --port."
    )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_a_foreign_address_is_refused(host: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        listen(host, 0)
    assert wrong.value.field == "server.host"
    assert wrong.value.value == host
    assert wrong.value.allowed == "an address of this machine"
