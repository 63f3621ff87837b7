"""Names and pages: which hosts are answered to, which origins may read, what a preflight says."""

from __future__ import annotations

import pytest

from headrace.core.config import ServerConfig
from headrace.server.error_responses import HttpRefusal
from headrace.server.origins import check_host, cors_headers, is_loopback, preflight_headers

PAGE = "https://app.example.org"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("192.168.0.2", False),
        ("example.org", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_only_this_machine_reaches_the_default_address() -> None:
    assert is_loopback(ServerConfig().host)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "[::1]:8000", "192.168.0.2", "localhost", "llm.localhost:80", "backend:1"],
)
def test_a_page_cannot_reach_these_names_by_its_own_dns(host: str) -> None:
    check_host({"host": host}, ServerConfig(), is_open=True)
    check_host({}, ServerConfig(), is_open=True)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example."])
def test_an_open_local_server_answers_to_no_public_name(host: str) -> None:
    config = ServerConfig()
    with pytest.raises(HttpRefusal, match="does not answer to the name"):
        check_host({"host": host}, config, is_open=True)
    check_host({"host": host}, config, is_open=False)
    check_host({"host": host}, ServerConfig(host="192.168.0.2"), is_open=True)
    named = ServerConfig(allowed_hosts=("evil.example", "127.0.0.1.evil.example."[:-1]))
    check_host({"host": host.rstrip(".")}, named, is_open=True)


def test_named_hosts_are_the_only_ones_wherever_it_listens() -> None:
    config = ServerConfig(host="192.168.0.2", allowed_hosts=("llm.example.org",))
    check_host({"host": "LLM.example.org:443"}, config, is_open=False)
    with pytest.raises(HttpRefusal):
        check_host({"host": "other.example.org"}, config, is_open=False)


def test_cors_is_off_unless_an_origin_is_named() -> None:
    asked = {"origin": PAGE, "access-control-request-method": "POST"}
    assert cors_headers(asked, ServerConfig()) == {}
    assert preflight_headers("OPTIONS", asked, ServerConfig()) is None


def test_a_named_origin_may_read_and_another_may_not() -> None:
    config = ServerConfig(cors_origins=(PAGE,))
    allowed = cors_headers({"origin": PAGE}, config)
    assert (allowed["access-control-allow-origin"], allowed["vary"]) == (PAGE, "Origin")
    assert "x-request-id" in allowed["access-control-expose-headers"]
    # Caches must not hand one origin's answer to another, so the others vary too.
    for other in ({"origin": "https://evil.example"}, {"origin": f"{PAGE}.evil.example"}, {}):
        assert cors_headers(other, config) == {"vary": "Origin"}
    every = cors_headers({"origin": "null"}, ServerConfig(cors_origins=("*",)))
    assert every["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in allowed | every


def test_a_preflight_names_what_was_asked_and_no_nonsense() -> None:
    config = ServerConfig(cors_origins=(PAGE,))
    asked = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type,x-stainless-os",
    }
    allowed = preflight_headers("OPTIONS", asked, config)
    assert allowed is not None
    assert "POST" in allowed["access-control-allow-methods"]
    assert allowed["access-control-allow-headers"] == "authorization, content-type,x-stainless-os"
    for names in ("a b", "x\r\ny: z", "x" * 5000, "*/*"):
        odd = preflight_headers(
            "OPTIONS", asked | {"access-control-request-headers": names}, config
        )
        assert odd is not None
        assert "access-control-allow-headers" not in odd
    assert preflight_headers("POST", asked, config) is None
    assert preflight_headers("OPTIONS", asked | {"origin": "https://evil.example"}, config) is None
    assert preflight_headers("OPTIONS", {"origin": PAGE}, config) is None
