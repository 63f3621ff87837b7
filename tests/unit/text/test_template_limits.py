"""What a hostile chat template can do: nothing that takes long, much memory or the process."""

from __future__ import annotations

import re

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from headrace.core.errors import RequestError
from headrace.core.message import Message
from headrace.text import template_limits
from headrace.text.chat_template import ChatTemplate
from headrace.text.jinja_environment import MAX_SOURCE_CHARACTERS

_TWICE = "{{% set n = namespace(v={start}) %}}{{% for i in range(40) %}}{step}{{% endfor %}}{after}"
_NESTED = (
    "{% set n = namespace(t=()) %}{% for i in range(1001) %}{% set n.t = (n.t,) %}{% endfor %}"
)
_LONG = "{% set s = 'a' * 100000 %}"


def _twice(start: str, step: str, after: str = "") -> str:
    return _TWICE.format(start=start, step=step, after=after)


def _error(source: str) -> str:
    with pytest.raises(RequestError) as caught:
        ChatTemplate(source, {}).render((Message("user", "x"),))
    return str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        _twice("'x'", "{% set n.v = n.v ~ n.v %}"),
        _twice("'x'", "{% set n.v = [n.v, n.v] | join %}"),
        _twice("'x'", "{% set n.v = ''.join([n.v, n.v]) %}"),
        _twice("'x'", "{% set v %}{{ n.v }}{{ n.v }}{% endset %}{% set n.v = v %}"),
        _LONG + "{{ s | replace('a', s) | length }}",
        _LONG + "{{ s.replace('a', s) | length }}",
        _LONG + "{{ ('{a}' * 10000).format(a=s) | length }}",
        _LONG + "{{ ('%(a)s' * 10000) % {'a': s} }}",
        "{{ '{:900000000}'.format(1) | length }}",
        "{{ '{:{}}'.format(1, 900000000) | length }}",
        "{{ (('%99999d' * 60000) % ((1,) * 60000)) | length }}",
        "{{ ('\\t' * 100000).expandtabs(100000) | length }}",
        "{{ ('\\n' * 100000) | indent(100000) | length }}",
        "{{ [1] | tojson(indent=900000000) }}",
        "{{ ('é' * 60000000) | list | length }}",
        "{{ ('a,' * 2000000).split(',') | length }}",
    ],
)  # fmt: skip
def test_no_text_is_longer_than_allowed(source: str) -> None:
    error = _error(source)
    assert "refused" in error and any(
        word in error for word in ("exceed", "more than", "too many", "asks for", "takes texts of")
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'x'.encode() * 9 }}",
        "{{ (1).to_bytes(9, 'little') }}",
        "{{ 'x'.translate({120: 'y'}) }}",
        "{{ ('x' | safe).striptags() }}",
    ],
)
def test_methods_that_make_bytes_or_as_much_as_they_are_told_are_out_of_reach(source: str) -> None:
    assert "unsafe" in _error(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 5 | round(1000000000, 'floor') }}",
        "{% set p = 0 - 1000000000 %}{{ 5 | round(p) }}",
        _twice("9", "{% set n.v = n.v ** 1000 %}"),
        _twice("99", "{% set n.v = n.v * n.v %}"),
        "{{ ('f' * 1000000) | int(0, 16) is number }}",
        "{% set c = 'b' * 60000000 ~ 'a' %}{{ ('a' * 1000000).strip(c) }}",
        "{% set c = 'b' * 60000000 ~ 'a' %}{{ ('a' * 1000000) | trim(c) }}",
        "{% set b = 'b' ~ 'a' * 30000000 %}{{ ('a' * 60000000).rfind(b) }}",
        "{{ range(99999) | batch(1) | sum(start=[]) | length }}",
    ],
)  # fmt: skip
def test_no_operation_takes_long_that_cannot_be_interrupted(source: str) -> None:
    assert "refused" in _error(source)


@pytest.mark.parametrize(
    "after",
    [
        "{% set d = {n.t: 1} %}",
        "{{ n.t in {'a': 1} }}",
        "{{ {'a': 1}[n.t] }}",
        "{{ {'a': 1}.get(n.t) }}",
        "{{ dict([(n.t, 1)]) }}",
        "{{ namespace([(n.t, 1)]) }}",
        "{{ [n.t] | unique | list }}",
        "{{ n.t }}",
        "{{ n.t ~ '' }}",
        "{{ n.t | tojson }}",
    ],
)
def test_what_is_nested_deep_never_reaches_the_recursion_of_the_interpreter(after: str) -> None:
    assert "nested more than 1000 deep" in _error(_NESTED + after)


@pytest.mark.parametrize("after", ["{{ n.v | tojson }}", "{{ n.v == n.v + [] }}"])
def test_a_list_that_holds_itself_twice_many_times_over_is_not_read(after: str) -> None:
    assert "more than 1000000 items" in _error(_twice("[1]", "{% set n.v = [n.v, n.v] %}", after))


def test_a_namespace_may_hold_itself() -> None:
    source = "{% set n = namespace() %}{% set n.n = n %}{{ n }}"
    assert ChatTemplate(source, {}).render((Message("user", "x"),)).text == "<Namespace>"


def test_iterators_are_read_once_and_make_no_chains() -> None:
    source = (
        "{% set i = ['b', 'a'] | map('upper') %}{{ i | join }}{{ i | join }}"
        "{% for x in [1, 2] | select('odd') %}{{ x }}{% endfor %}"
        "{{ [3, 4] | reverse | first }}{{ 'abc' | batch(2) | list }}"
    )
    text = ChatTemplate(source, {}).render((Message("user", "x"),)).text
    assert text == "BA14[['a', 'b'], ['c']]"


def test_time_is_bounded_where_steps_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.2)
    source = "{% for i in range(99999) %}{% set x = range(99999) | list | length %}{% endfor %}"
    assert "takes more than 0.2 s" in _error(source)


def test_comparisons_outside_of_loops_take_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_SECONDS", 0.2)
    source = (
        "{% set n = 10000000 %}{% set s = 'x' * n %}{% set t = 'x' * n %}"
        + "{% set same = s == t %}" * 2000
    )
    assert "takes more than 0.2 s" in _error(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}{% if messages.n == 1 %}{% endif %}"
        "{% endfor %}{% endfor %}",
    ],
)
def test_rounds_are_steps(source: str) -> None:
    assert "takes more than 1000000 steps" in _error(source)


@pytest.mark.parametrize("name", ["keys", "get", "pop", "__class__", "role", "nothing"])
def test_attributes_of_messages_are_what_the_sandbox_says(name: str) -> None:
    source = f"{{{{ messages[0].{name} }}}}|{{{{ messages[0].{name} is defined }}}}"
    sandbox = ImmutableSandboxedEnvironment().from_string(source)
    expected = sandbox.render(messages=[{"role": "user", "content": "x"}])
    ours = ChatTemplate(source, {}).render((Message("user", "x"),)).text
    addresses = re.compile("0x[0-9a-f]+")
    assert addresses.sub("", ours) == addresses.sub("", expected)


def test_what_is_made_in_all_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MAX_MADE_BYTES", 1 << 20)
    source = _LONG + "{% for i in range(99) %}{% set x = s[1:] %}{% endfor %}"
    assert "makes more than 1048576 bytes" in _error(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for a in b %}" * 25 + "{% endfor %}" * 25, "statically nested"),
        ("{{ " + "9" * 5000 + " }}", "4300 digits"),
        ("x" * (MAX_SOURCE_CHARACTERS + 1), "more than 131072 characters"),
        ("{{ 'x' | wordwrap(1) }}", "No filter named 'wordwrap'"),
    ],
)
def test_sources_that_do_not_compile_refuse_chats_alone(source: str, message: str) -> None:
    template = ChatTemplate(source, {})
    assert message in (template.compile_error or "")
    assert not template.reads_messages


def test_an_error_is_short_whatever_the_template_says() -> None:
    assert len(_error("{{ raise_exception('x' * 60000000) }}")) < 2000


def test_methods_work_in_loops_as_outside() -> None:
    source = (
        "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\\n').strip() }}"
        "{{ ''.join(['a', 'b']) }}{{ m.content.rsplit(' ', 1) | first }}{{ '{}'.format(1) }}"
        "{{ m.get('name', 'none') }}{{ m.content.startswith('<think>') }}{% endfor %}"
    )
    chat = (Message("user", "<think>x</think>\n\nhi you"),)
    text = ChatTemplate(source, {}).render(chat).text
    assert text == "hi youab<think>x</think>\n\nhi1noneTrue"


def test_large_numbers_are_values_like_others() -> None:
    source = (
        "{{ x | default(1764000000) }} {{ '%d' % 1764000000 }} {{ '{}'.format(1764000000) }}"
        " {{ 2 ** 64 }} {{ 1e308 * 10 }} {{ 1764000000 | round(2) }}"
    )
    text = ChatTemplate(source, {}).render((Message("user", "x"),)).text
    assert text == "1764000000 1764000000 1764000000 18446744073709551616 inf 1764000000"
