"""Tokens to text: stops, counts, characters cut in two, logprobs, through a whole engine."""

from __future__ import annotations

import pytest

from fakes.byte_tokenizer import EOS
from fakes.running_engine import ask, collect, running_engine, script
from headrace.core.output import CompletionDelta, RequestOutput


async def answer(
    text: str | list[int], after: int | None = None, **sampling: object
) -> tuple[CompletionDelta, RequestOutput]:
    """What an engine whose model says `text` answers; sees that nothing is left running."""
    async with running_engine(script(text, after)) as running:
        output = await collect(running.backend, ask("p", **{"max_tokens": 30, **sampling}))
        await running.until_idle()
        (delta,) = output.deltas
        assert len(delta.token_ids) == output.usage.output_tokens
        return delta, output


async def test_eos_ends_and_has_no_text() -> None:
    delta, _ = await answer("hello", after=EOS)
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("hello", "stop", None)
    assert delta.token_ids == (*b"hello", EOS)


async def test_the_token_that_completes_a_form_has_text() -> None:
    async with running_engine(script("{}and more")) as running:
        running.runner.complete_at = 2
        output = await collect(running.backend, ask("p", max_tokens=30, min_tokens=5))
        await running.until_idle()
    (delta,) = output.deltas
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("{}", "stop", None)
    assert bytes(delta.token_ids) == b"{}"


async def test_ignore_eos_goes_on() -> None:
    delta, _ = await answer("hello", after=EOS, ignore_eos=True, max_tokens=8)
    assert (delta.text, delta.finish_reason) == ("hello", "length")
    assert delta.token_ids[-3:] == (EOS, EOS, EOS)


async def test_special_tokens_show_when_asked() -> None:
    delta, _ = await answer(
        "hi", after=EOS, include_stop_str_in_output=True, skip_special_tokens=False
    )
    assert delta.text == "hi<eos>"


async def test_a_stop_string_across_tokens_ends_the_answer_and_the_engine_request() -> None:
    delta, output = await answer("one two three four five six", stop=["three", "zzz"])
    assert delta.text == "one two "
    assert (delta.finish_reason, delta.stop_reason) == ("stop", "three")
    assert bytes(delta.token_ids) == b"one two three"
    assert output.usage.output_tokens == 13


async def test_a_stop_string_can_be_included() -> None:
    delta, _ = await answer("one two three", stop="two", include_stop_str_in_output=True)
    assert (delta.text, delta.stop_reason) == ("one two", "two")


async def test_text_held_back_for_a_stop_string_is_released_at_the_end() -> None:
    delta, _ = await answer("abc thr", max_tokens=7, stop=["three"])
    assert (delta.text, delta.finish_reason) == ("abc thr", "length")
    delta, _ = await answer("abc thr", after=EOS, stop=["three"])
    assert (delta.text, delta.finish_reason) == ("abc thr", "stop")
    assert delta.stop_reason is None


async def test_a_stop_string_on_the_last_token_is_a_stop() -> None:
    delta, _ = await answer("abc", max_tokens=3, stop=["c"])
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("ab", "stop", "c")


@pytest.mark.parametrize(
    ("min_tokens", "text"), [(0, "a"), (1, "a"), (2, "a.b"), (3, "a.b"), (8, "a.b.c.d.e")]
)
async def test_stop_strings_count_after_min_tokens(min_tokens: int, text: str) -> None:
    delta, _ = await answer("a.b.c.d.e.f", stop=["."], min_tokens=min_tokens)
    assert delta.text == text
    assert len(delta.token_ids) > min_tokens


async def test_a_stop_token_is_named_and_its_text_hidden() -> None:
    delta, _ = await answer("abc", stop_token_ids=[ord("b")])
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("a", "stop", ord("b"))
    assert delta.token_ids == tuple(b"ab")
    delta, _ = await answer("abc", stop_token_ids=[ord("b")], include_stop_str_in_output=True)
    assert delta.text == "ab"


async def test_characters_are_never_cut() -> None:
    async with running_engine(script("aé漢😀!", after=EOS)) as running:
        running.runner.first_gated_step = 1
        texts = [output.deltas[0].text async for output in await running.backend.generate(ask("p"))]
    assert "".join(texts) == "aé漢😀!"
    assert not any("\ufffd" in text for text in texts)


async def test_an_unfinished_character_at_the_end_shows_as_such() -> None:
    delta, _ = await answer(list("é".encode()), max_tokens=1)
    assert delta.text == "\ufffd"


async def test_logprobs_have_exact_bytes_and_one_entry_per_token() -> None:
    delta, _ = await answer("é!", after=EOS, logprobs=1)
    assert delta.logprobs is not None
    chosen = [position.chosen for position in delta.logprobs]
    assert [entry.token_id for entry in chosen] == [0xC3, 0xA9, ord("!"), EOS]
    assert [entry.bytes for entry in chosen] == [b"\xc3", b"\xa9", b"!", b"<eos>"]
    assert [entry.token for entry in chosen][2:] == ["!", "<eos>"]
    assert all(position.top[0] == position.chosen for position in delta.logprobs)


async def test_logprobs_end_with_the_stop_string() -> None:
    delta, _ = await answer("abcdef", logprobs=0, stop=["cd"])
    assert delta.logprobs is not None
    assert [position.chosen.token for position in delta.logprobs] == list("abcd")


async def test_no_logprobs_unless_asked() -> None:
    delta, output = await answer("abc", max_tokens=2)
    assert delta.logprobs is None
    assert output.prompt_logprobs is None


@pytest.mark.parametrize("n", [1, 3])
async def test_prompt_logprobs_come_with_the_first_output(n: int) -> None:
    async with running_engine(max_num_batched_tokens=8) as running:
        request = ask("a prompt of a few chunks", prompt_logprobs=1, n=n, max_tokens=4)
        outputs = [output async for output in await running.backend.generate(request)]
        assert outputs[0].prompt_logprobs is not None
        assert all(output.prompt_logprobs is None for output in outputs[1:])
        assert all(output.prompt_token_ids is None for output in outputs[1:])
        first, *rest = outputs[0].prompt_logprobs
        assert first is None
        text = "".join(position.chosen.token for position in rest if position is not None)
        assert text == "a prompt of a few chunks"[1:]
        await running.until_idle()


async def test_a_prompt_of_one_token_is_scored_with_nothing() -> None:
    _, output = await answer("abc", prompt_logprobs=0, max_tokens=2)
    assert output.prompt_logprobs == (None,)


async def test_a_token_past_the_vocabulary_has_no_text() -> None:
    delta, _ = await answer([ord("a"), 5000, ord("b")], after=EOS, logprobs=0)
    assert delta.text == "ab"
    assert delta.logprobs is not None
    assert delta.logprobs[1].chosen.bytes == b""
