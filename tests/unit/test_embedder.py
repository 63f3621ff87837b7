"""The Embedder: what its arguments may be, over real tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.encoders import classifier_folder, encoder_folder
from headrace.core.errors import InvalidParameter
from headrace.embedder import Embedder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder_folder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Iterator[Embedder]:
    with Embedder(folder, num_threads=1, encoder_dtype="f32") as embedder:
        yield embedder


def test_nothing_gives_no_rows(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 64)


def test_a_prompt_goes_before_texts_only(embedder: Embedder) -> None:
    said = embedder.embed("the query. rain")
    assert embedder.embed("rain", prompt_name="query").tobytes() == said.tobytes()
    with pytest.raises(InvalidParameter, match="prompt_name is 'query'; allowed: nothing beside"):
        embedder.embed([[5, 6], [7]], prompt_name="query")


def test_texts_are_lower_cased_where_the_folder_says_so(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    (folder / "tokenizer.json").write_text(
        (folder / "tokenizer.json").read_text().replace('"lowercase": true', '"lowercase": false')
    )
    text = folder / "sentence_bert_config.json"
    vectors = []
    for is_lowered in ("false", "true"):
        text.write_text(f'{{"max_seq_length": 40, "do_lower_case": {is_lowered}}}')
        with Embedder(folder, num_threads=1, encoder_dtype="f32") as embedder:
            vectors.append(embedder.embed(["The CAT", "the cat"]))
    assert vectors[0][0].tobytes() != vectors[0][1].tobytes()
    assert vectors[1][0].tobytes() == vectors[1][1].tobytes() == vectors[0][1].tobytes()


@pytest.mark.parametrize("wrong", [5, b"cat", None])
def test_what_is_no_text_is_named(tmp_path: Path, wrong: Any) -> None:
    with (
        Embedder(classifier_folder(tmp_path), num_threads=1, encoder_dtype="f32") as embedder,
        pytest.raises(InvalidParameter, match=r"inputs\[1\] is .*allowed: a text, a pair"),
    ):
        embedder.classify(["cat", wrong])


def test_an_empty_text_is_refused_as_at_the_server(embedder: Embedder, tmp_path: Path) -> None:
    said = "is ''; allowed: a text that is not empty"
    with pytest.raises(InvalidParameter, match=rf"inputs\[1\] {said}"):
        embedder.embed(["cat", ""])
    with pytest.raises(InvalidParameter, match=rf"inputs\[0\] {said}"):
        embedder.embed("", prompt_name="query")
    folder = classifier_folder(tmp_path)
    with (
        Embedder(folder, num_threads=1, encoder_dtype="f32") as classifier,
        pytest.raises(InvalidParameter, match=rf"inputs\[0\] {said}"),
    ):
        classifier.classify([""])


def test_vectors_have_the_size_of_the_model(embedder: Embedder) -> None:
    assert embedder.embed(["a", "b"], dimensions=5, is_normalized=True).dtype == np.float32
    with pytest.raises(InvalidParameter, match="dimensions"):
        embedder.embed("a", dimensions=65)
