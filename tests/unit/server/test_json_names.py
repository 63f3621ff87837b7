"""Names that an object has twice, and bodies that only look as if they had some."""

from __future__ import annotations

import json
import random
from contextlib import nullcontext

import pytest

from headrace.core.errors import RequestError
from headrace.server.json_body import JsonLimits, decode_json_object


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (rb'{"a": 1, "a": 1}', "a"),
        (rb'{"a":1,"b":{"a":1}, "b" : 2}', "b"),
        (rb'{"m":[{"role":"user"},{"role":"user","content":"x","role":"user"}]}', "m[1].role"),
        (rb'{"m":[[{"k":{"":0,"":[]}}]]}', "m[0][0].k."),
        # The value that is lost may hold anything.
        (rb'{"a": {"b:": ":::", "c": [":"]}, "a": null}', "a"),
        (rb'{"a":{"x":1,"x":2},"a":1}', "a"),
        # One name, written in two ways.
        (rb'{"a":1,"\u0061":2}', "a"),
        (rb'{"\"":1,"\u0022":2}', '"'),
        # A colon that is written otherwise does not make up for the one of a lost name.
        (rb'{"a":1,"a":"\u003a"}', "a"),
        (rb'{"a":1,"a":"\u003A", "b": "\\u003a"}', "a"),
        (rb'{"a:":1,"a\u003a":"::"}', "a:"),
        (b'\xef\xbb\xbf{"a":1,"a":1}', "a"),
        ('{"ä":1,"ä":"\N{EARTH GLOBE AMERICAS}:"}'.encode(), "ä"),
        (b'{"' + b"n" * 200 + b'": 1, "' + b"n" * 200 + b'": 1}', "n" * 117 + "..."),
        (b'{"n": ' + b"9" * 300 + b', "n": -1.5e-9}', "n"),
    ],
)
def test_a_name_that_its_object_has_twice_is_told(body: bytes, path: str) -> None:
    with pytest.raises(RequestError) as refused:
        decode_json_object(body, JsonLimits(8, 100))
    assert refused.value.param == path
    assert refused.value.message.startswith(f"The request body has {path} twice; allowed: each")
    decode_json_object(body, JsonLimits(8, 100, is_name_unique=False))


def test_a_lost_value_may_be_deep() -> None:
    body = b'{"a": ' + b"[" * 900 + b"]" * 900 + b', "a": 1}'
    with pytest.raises(RequestError, match=r"nests|a twice"):
        decode_json_object(body, JsonLimits(8, 2000))


@pytest.mark.parametrize("seed", range(20))
def test_names_are_found_twice_if_and_only_if_they_are(seed: int) -> None:
    """Random values, written in random ways; then with one name more in a random object."""
    source = random.Random(seed)
    alphabet = [
        ":",
        '"',
        "\\",
        "a",
        "\n",
        "ä",
        "\u003a",
        " ",
        "u003a",
        "{",
        "\N{EARTH GLOBE AMERICAS}",
    ]

    def text() -> str:
        return "".join(source.choices(alphabet, k=source.randrange(6)))

    def written(value: str) -> str:
        escaped = json.dumps(value, ensure_ascii=source.random() < 0.5)
        return escaped.replace(":", source.choice([":", ":", "\\u003a", "\\u003A"]))

    def make(depth: int, objects: list[list[str]]) -> str:
        kind = source.random()
        if depth == 0 or kind < 0.3:
            return source.choice([written(text()), "1.5", "null", "-7"])
        inner = [make(depth - 1, objects) for _ in range(source.randrange(4))]
        if kind < 0.5:
            return f"[{', '.join(inner)}]"
        names = [f"{text()}{index}" for index in range(len(inner))]
        pairs = [
            f"{written(name)}{source.choice(['', ' '])}: {value}"
            for name, value in zip(names, inner, strict=True)
        ]
        if pairs and source.random() < 0.02:
            objects.append(pairs)
            name = names[0]
            pairs.append(f"{written(name)}:{written(text())}")
        return f"{{{','.join(pairs)}}}"

    for _ in range(200):
        twice: list[list[str]] = []
        body = f'{{"x": {make(4, twice)}}}'.encode()
        with pytest.raises(RequestError, match="twice") if twice else nullcontext():
            assert decode_json_object(body, JsonLimits(20, 5000)) == json.loads(body)
