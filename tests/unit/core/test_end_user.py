"""What is kept of the one for whom a caller asks: digests that only their tenant can join."""

from __future__ import annotations

from hashlib import sha256

from headrace.core.end_user import EndUser, digest_of


def test_a_digest_is_what_the_guide_says() -> None:
    text = "alice@example.org"
    expected = sha256(b"acme\0alice@example.org").hexdigest()[:32]
    assert digest_of("acme", text) == expected
    assert digest_of("other", text) != expected
    assert digest_of("acme", None) is None
    assert digest_of("acme", "") is None
    assert len(digest_of("acme", "\ud800") or "") == 32


def test_no_text_is_shown() -> None:
    assert "alice" not in repr(EndUser("alice"))
