"""`headrace quantize`: the file it writes runs, and what it refuses before it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from fakes.gguf_file import GgufFile, string_value
from fakes.random_model import write_random_model
from fakes.small_vocabularies import byte_level
from headrace.cli.app import build_app
from headrace.core.errors import HeadraceError, InvalidParameter, QualityDrift
from headrace.llm import LLM
from headrace.quant.quantize import quantize as round_weights
from headrace.weights.gguf import GgufReader

WEIGHTS = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))


def quantize(*words: object) -> Result:
    arguments = ["quantize", *map(str, words)]
    return CliRunner().invoke(build_app(arguments), arguments, catch_exceptions=True)


def model(path: Path, format_name: str, name: str = "blk.0.attn_q.weight") -> Path:
    file = GgufFile([("general.architecture", string_value("llama"))])
    path.write_bytes(file.add(name, round_weights(WEIGHTS, format_name)).to_bytes())
    return path


@pytest.mark.parametrize("method", ["search", "nearest"])
def test_the_file_says_what_it_was_made_from(tmp_path: Path, method: str) -> None:
    source, out = model(tmp_path / "a.gguf", "f16"), tmp_path / "b.gguf"
    result = quantize(source, "--to", "Q4_K", "-o", out, "--method", method)
    assert result.exit_code == 0, result.output
    assert f"{out}: " in result.stdout
    assert "4.50 bits per weight" in result.stdout
    reader = GgufReader(out)
    assert reader.tensor("blk.0.attn_q.weight").format.name == "q4_k"
    assert reader.metadata["headrace.quantize.method"] == method
    assert reader.metadata["headrace.quantize.source"] == "a.gguf"
    assert len(str(reader.metadata["headrace.quantize.source_sha256"])) == 64
    reader.close()


def test_weights_of_few_bits_are_rounded_again_only_when_asked(tmp_path: Path) -> None:
    source, out = model(tmp_path / "a.gguf", "q6_k"), tmp_path / "b.gguf"
    refused = quantize(source, "--to", "q4_k", "-o", out)
    assert isinstance(refused.exception, HeadraceError)
    assert "blk.0.attn_q.weight is q6_k" in str(refused.exception)
    assert "--allow-requantize" in str(refused.exception)
    assert not out.exists()
    assert quantize(source, "--to", "q4_k", "-o", out, "--allow-requantize").exit_code == 0


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    source, out = model(tmp_path / "a.gguf", "f32"), tmp_path / "b.gguf"
    out.write_bytes(b"mine")
    for words in (
        (source, "--to", "q4_0", "-o", out),
        (source, "--to", "q4_0", "-o", source, "-f"),
    ):
        refused = quantize(*words)
        assert isinstance(refused.exception, InvalidParameter)
        assert "--output" in str(refused.exception)
    assert out.read_bytes() == b"mine"
    assert quantize(source, "--to", "q4_0", "-o", out, "--force").exit_code == 0
    assert GgufReader(out).tensor("blk.0.attn_q.weight").format.name == "q4_0"


@pytest.mark.parametrize("name", ["b.bin", "missing/b.gguf"])
def test_a_path_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str) -> None:
    refused = quantize(model(tmp_path / "a.gguf", "f32"), "--to", "q4_0", "-o", tmp_path / name)
    assert "--output is" in str(refused.exception)


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    refused = quantize(tmp_path / "a.gguf", "--to", "int3", "-o", tmp_path / "b.gguf")
    assert "--to is 'int3'; allowed: q4_0, q4_1, q5_0" in str(refused.exception)


def test_a_budget_takes_the_place_of_a_format(tmp_path: Path) -> None:
    source, out = model(tmp_path / "a.gguf", "f16"), tmp_path / "b.gguf"
    assert quantize(source, "--bits", "5.6", "-o", out).exit_code == 0
    assert GgufReader(out).tensor("blk.0.attn_q.weight").format.name == "q5_k"
    for words in ((), ("--bits", "5", "--to", "q4_0")):
        refused = quantize(source, "-o", tmp_path / "c.gguf", *words)
        assert "one of the two" in str(refused.exception)
    assert "at least 4.50" in str(quantize(source, "--bits", "2", "-o", out, "-f").exception)
    assert "at most 8.50" in str(quantize(source, "--bits", "12", "-o", out, "-f").exception)


def test_the_head_may_be_as_small_as_the_rest(tmp_path: Path) -> None:
    source, out = model(tmp_path / "a.gguf", "f16", "token_embd.weight"), tmp_path / "b.gguf"
    assert quantize(source, "--to", "q4_0", "--head", "q5_0", "-o", out).exit_code == 0
    assert GgufReader(out).tensor("token_embd.weight").format.name == "q5_0"
    for words in (("--bits", "6", "--head", "q4_0"), ("--to", "f16", "--head", "q4_0")):
        refused = quantize(source, "-o", tmp_path / "c.gguf", *words)
        assert "beside --to with a format of few bits" in str(refused.exception)


def folder(path: Path) -> Path:
    write_random_model(path, num_layers=1)
    (path / "tokenizer.json").write_text(byte_level("qwen2", vocab_size=270)[1].to_str())
    return path


def test_a_folder_becomes_a_file_with_a_canary_that_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "b.gguf"
    done = quantize(folder(tmp_path / "a"), "--to", "q4_0", "-o", out)
    assert done.exit_code == 0, done.output
    reader = GgufReader(out)
    assert reader.metadata["general.architecture"] == "llama"
    tokens = list(reader.metadata["headrace.canary.tokens"])
    logprobs = np.array(reader.metadata["headrace.canary.logprobs"])
    reader.close()
    assert len(tokens) == len(logprobs) + 1 == 64
    assert (logprobs < 0).all()
    with LLM(out, canary="refuse", max_model_len=256) as llm:
        assert llm.generate("Hello")[0].completions
    damaged = tmp_path / "damaged.gguf"
    data = bytearray(out.read_bytes())
    place = len(data) // 2
    data[place : place + 60_000] = bytes(range(250)) * 240
    damaged.write_bytes(data)
    with pytest.raises(QualityDrift, match="The model drifts"):
        LLM(damaged, canary="refuse", max_model_len=256)
    LLM(damaged, canary="off", max_model_len=256).close()


def test_errors_are_fed_on_with_a_text_only(tmp_path: Path) -> None:
    source, out, text = folder(tmp_path / "a"), tmp_path / "b.gguf", tmp_path / "text.txt"
    words = (source, "--to", "q4_0", "-o", out, "--method", "gptq")
    refused = quantize(*words)
    assert isinstance(refused.exception, InvalidParameter)
    assert "--method is 'gptq'; allowed: with --calibration FILE" in str(refused.exception)
    assert not out.exists()
    text.write_text("The keeper wrote down the weather every evening. " * 20)
    done = quantize(*words[:5], "--calibration", text)
    assert done.exit_code == 0, done.output
    searched = tmp_path / "c.gguf"
    asked = (*words[:4], searched, "--method", "search", "--calibration", text)
    assert quantize(*asked).exit_code == 0
    found, other = GgufReader(out), GgufReader(searched)
    assert found.metadata["headrace.quantize.method"] == "gptq"
    assert int(str(found.metadata["headrace.quantize.calibration_tokens"])) >= 128
    is_equal = {
        name: np.array_equal(found.tensor(name).data, other.tensor(name).data)
        for name in ("token_embd.weight", "output.weight", "blk.0.attn_q.weight")
    }
    assert is_equal == {
        "token_embd.weight": True,
        "output.weight": True,
        "blk.0.attn_q.weight": False,
    }
    found.close()
    other.close()


def test_a_folder_is_converted_without_rounding(tmp_path: Path) -> None:
    source, out = folder(tmp_path / "a"), tmp_path / "b.gguf"
    assert quantize(source, "--to", "f16", "-o", out, "--no-canary").exit_code == 0
    reader = GgufReader(out)
    assert reader.tensor("blk.0.ffn_up.weight").format.name == "f16"
    assert "headrace.canary.tokens" not in reader.metadata
    reader.close()


def test_a_model_that_cannot_be_asked_has_no_canary(tmp_path: Path) -> None:
    result = quantize(model(tmp_path / "a.gguf", "f32"), "--to", "q4_0", "-o", tmp_path / "b.gguf")
    assert result.exit_code == 0
    assert "no canary is stored" in result.stderr
