"""What the guide says of rules is what rules do."""

from __future__ import annotations

import re
from pathlib import Path

from headrace.core.message import Message
from headrace.core.request import GenerateRequest, SamplingParams
from headrace.router.features import _CODE, MAX_TEXT, read_facts

GUIDE = (Path(__file__).parents[2] / "docs/guides/route.md").read_text()


def test_what_counts_as_code_is_as_the_guide_says() -> None:
    rows = re.findall(r"^\| `(.+)` \| (true|false) \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 8
    for text, said in rows:
        request = GenerateRequest(
            request_id="r",
            model="auto",
            messages=(Message("user", text),),
            sampling=SamplingParams(),
        )
        assert read_facts(request).has_code is (said == "true"), text


def test_every_word_and_sign_of_code_is_in_the_guide() -> None:
    section = GUIDE[GUIDE.index("`has_code` looks at") : GUIDE.index("So it takes some prose")]
    assert f"{MAX_TEXT:,} characters" in section
    words = re.search(r"\(\?:(def\|.+SELECT)\)", _CODE.pattern)
    assert words is not None
    for word in words[1].split("|"):
        assert f"`{word}`" in section, word
    for sign in ("+=", "-=", "*=", "==", "!=", "=>", "->", "::", "&&"):
        assert f"`{sign}`" in section
        assert _CODE.search(f"a {sign} b")
