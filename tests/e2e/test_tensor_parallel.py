"""A model divided over two processes: its answers, their ends. On numpy, which needs no GPU."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import eventually
from served_model import ServedModel, engine_of, serve, wait_for_another_engine

from fakes.random_model import write_random_model
from headrace import LLM, SamplingParams
from headrace.core.engine_config import EngineConfig
from headrace.core.errors import BackendError, ConfigError, EngineDied, OutOfMemory, QualityDrift
from headrace.core.structured_outputs import StructuredOutputs
from headrace.engine.started_model import start_model
from headrace.executor.canary import LOGPROBS_KEY, TOKENS_KEY
from headrace.llm import Generation

PROMPTS = ["The rivers of Europe", "la la la la la la", "one two three", "vier"]
FORM = StructuredOutputs(json={"type": "array", "items": {"type": "integer"}, "maxItems": 3})
PARAMS = [
    SamplingParams(max_tokens=12, temperature=0, logprobs=2, ignore_eos=True),
    SamplingParams(max_tokens=12, temperature=0, repetition_penalty=1.2, ignore_eos=True),
    SamplingParams(max_tokens=12, temperature=1.1, seed=5, top_p=0.9, prompt_logprobs=0),
    SamplingParams(max_tokens=24, temperature=0.8, seed=6, structured_outputs=FORM),
]
LOGPROBS = 1e-4
"""Sums of float32 in another order, two layers."""
SETTINGS = (
    "engine: {device: reference, memory_bytes: 400MiB, max_model_len: 512, max_num_seqs: 8}\n"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("tiny"), 2)


def open_llm(model: Path, num_ranks: int, **options: Any) -> LLM:
    return LLM(
        model, device="reference", tensor_parallel_size=num_ranks, max_model_len=256,
        max_num_seqs=8, max_num_batched_tokens=16, speculative="prompt-lookup", **options,
    )  # fmt: skip


def other_ranks(process: psutil.Process) -> list[psutil.Process]:
    return [child for child in process.children() if "rank_worker" in " ".join(child.cmdline())]


def answers(llm: LLM) -> list[Generation]:
    return llm.generate(PROMPTS, PARAMS)


def token_ids(found: list[Generation]) -> list[tuple[int, ...]]:
    return [each.completions[0].token_ids for each in found]


def logprobs(found: Generation) -> list[float]:
    entries = found.completions[0].logprobs or ()
    return [each.logprob for entry in entries for each in (entry.chosen, *entry.top)]


def test_two_ranks_answer_as_one_process_does(tiny: Path) -> None:
    """Chunks, guesses, penalties, a form: everything rank 0 decides alone."""
    with open_llm(tiny, 1) as llm:
        expected = answers(llm)
    with open_llm(tiny, 2) as llm:
        (rank,) = other_ranks(psutil.Process())
        found = answers(llm)
        again = answers(llm)  # over cached prefixes
        assert "tp2" in llm.engine.environment["ops"]
    assert not rank.is_running()
    assert token_ids(found) == token_ids(again) == token_ids(expected)
    assert logprobs(found[0]) == pytest.approx(logprobs(expected[0]), abs=LOGPROBS)


def test_a_rank_that_is_killed_ends_the_engine_with_a_sentence(tiny: Path) -> None:
    with open_llm(tiny, 2) as llm:
        (rank,) = other_ranks(psutil.Process())
        rank.kill()
        sentence = rf"rank 1 of 2 \(process {rank.pid}\) was killed by SIGKILL"
        with pytest.raises(BackendError, match=sentence):
            answers(llm)


def test_a_step_that_went_through_without_a_rank_is_not_believed(tiny: Path) -> None:
    """On a GPU a sum can come to an end without one, with any numbers."""
    engine = EngineConfig(device="reference", tensor_parallel_size=2, max_model_len=64)
    with closing(start_model(tiny, engine, 1 << 40)) as started:
        started.finish_packing()
        assert started.ranks is not None
        ended: list[str] = []
        started.ranks.watch(ended.append)
        with started.ranks.explaining():
            (rank,) = other_ranks(psutil.Process())
        with pytest.raises(EngineDied, match="was killed by SIGKILL"), started.ranks.explaining():
            rank.kill()
            eventually(lambda: ended, "the end of the rank was seen")


def test_the_same_again_has_room_for_as_much(tmp_path: Path) -> None:
    """A restart is given what rank 0 took; a rank with more of the feed-forward has to fit too."""
    uneven = write_random_model(tmp_path / "model", 1, inner=16 * 63)
    engine = EngineConfig(device="reference", tensor_parallel_size=2, max_model_len=64)
    with closing(start_model(uneven, engine, 1 << 40)) as started:
        first = started.capacity
    again = replace(engine, memory_bytes=first.total_bytes)
    with closing(start_model(uneven, again, 1 << 40)) as started:
        assert started.capacity.num_blocks == first.num_blocks
        assert started.capacity.total_bytes == first.total_bytes


def test_a_start_that_is_refused_is_one_error(
    tiny: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other rank may not have read yet what it is to load when it is told to stop."""
    with pytest.raises(OutOfMemory):
        open_llm(tiny, 2, memory_bytes=64 * 2**20)
    assert other_ranks(psutil.Process()) == []
    assert capfd.readouterr().err == ""


def test_a_model_that_cannot_be_divided_starts_no_process(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"allowed: 1, 2, 4 with this model.*3 ranks cannot"):
        open_llm(tiny, 3)
    assert other_ranks(psutil.Process()) == []


def test_a_model_that_is_refused_after_loading_leaves_no_process(tmp_path: Path) -> None:
    """All ranks ask the canary together; rank 0 raises what it says."""
    model = write_random_model(tmp_path / "model", 1)
    config = json.loads((model / "config.json").read_text())
    config |= {TOKENS_KEY: list(range(3, 51)), LOGPROBS_KEY: [-20.0] * 47}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(QualityDrift):
        open_llm(model, 2, canary="refuse")
    assert other_ranks(psutil.Process()) == []


def ask(server: ServedModel) -> str:
    answer = server.openai().completions.create(
        model=server.model, prompt=PROMPTS[0], max_tokens=8, temperature=0
    )
    return answer.choices[0].text


def test_a_server_starts_all_ranks_again_and_leaves_none(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(SETTINGS)
    options = ("--config", str(tmp_path / "settings.yaml"), "--tensor-parallel-size", "2")
    with serve(tiny, tmp_path, *options) as server:
        expected = ask(server)
        engine = engine_of(server)
        (first,) = other_ranks(engine)
        first.kill()
        another = wait_for_another_engine(server, engine)
        assert ask(server) == expected
        (second,) = other_ranks(another)
        assert f"rank 1 of 2 (process {first.pid}) was killed by SIGKILL" in server.program.stderr

        another.kill()
        second.wait(60)
        last = wait_for_another_engine(server, another)
        assert ask(server) == expected
        (third,) = other_ranks(last)
        server.program.process.send_signal(signal.SIGTERM)
        assert server.program.end() == 0
        eventually(lambda: not third.is_running(), "the last rank has ended")
