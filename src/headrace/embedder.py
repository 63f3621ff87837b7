"""Embedder: vectors of texts in a script, from an encoder or from a language model.

In: texts, pairs of texts or token ids. Out: a numpy array with a row for each. A row's bits depend
on its own text alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.config import Config
from headrace.core.errors import BackendError, InvalidParameter, RequestError
from headrace.core.request import Pooling
from headrace.core.scores import to_scores
from headrace.engine.encoder_model import EncoderInput, EncoderModel
from headrace.executor.encoder_runner import NOT_NUMBERS
from headrace.hub.model_store import ModelStore
from headrace.launch.backends import find_model
from headrace.launch.encoder_backend import open_encoder
from headrace.launch.model_kind import is_encoder
from headrace.llm import LLM, as_prompts, config_for
from headrace.weights.sentence_config import language_model_sentence

Vectors = NDArray[np.float32]
_INPUTS = "a text, token ids, or a list of these"
_POOLINGS = ("mean", "cls", "last")


class Embedder:
    """A model that makes vectors, loaded and ready.

    `model` is a name of the catalogue, a Hugging Face folder or a GGUF file; a named model is
    pulled when it is not local. `options` are fields of EngineConfig (`num_threads=2`,
    `encoder_dtype="f32"`); `config` stands for
    all of them. Use it in a `with`, or call `close`. May be used by several threads.

    Raises: ModelNotFound, ModelSourceError, ModelFileError, OutOfMemory, ConfigError.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        progress: Callable[[str, float], None] | None = None,
        config: Config | None = None,
        **options: object,
    ) -> None:
        self.config = config_for(model, config, options)
        local = find_model(ModelStore(self.config.hub), os.fspath(model), may_pull=True)
        self._encoder: EncoderModel | None = None
        self._llm: LLM | None = None
        if is_encoder(local.path):
            self._encoder = open_encoder(local, self.config, progress)
            self.sentence = self._encoder.facts.sentence
        else:
            self.sentence = language_model_sentence(local.path)
            self._llm = LLM(model, progress=progress, config=self.config)
        self.name = local.name

    @property
    def vector_size(self) -> int:
        """The length of a vector."""
        if self._encoder is not None:
            return self._encoder.facts.config.hidden_size
        return self._open_llm().engine.model_info.vector_size

    @property
    def max_model_len(self) -> int:
        """The longest input. Units: tokens."""
        if self._encoder is not None:
            return self._encoder.facts.plan.max_model_len
        return self._open_llm().engine.model_info.max_model_len

    @property
    def labels(self) -> tuple[str, ...]:
        """What the model's head tells apart; empty for a model without one."""
        return () if self._encoder is None else self._encoder.facts.config.labels

    def embed(
        self,
        inputs: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        prompt_name: str | None = None,
        pooling: Pooling | None = None,
        is_normalized: bool | None = None,
        dimensions: int | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> Vectors:
        """A vector for each input. Shapes: -> [n, C], or [n, dimensions].

        `prompt_name` names one of the model's prompts, put before every text. `pooling`,
        `is_normalized`: None is what the model's folder says. `truncate_prompt_tokens` is how many
        tokens of an input to keep at most, -1 as many as fit; without it a longer input is an
        error.
        Raises: RequestError, BackendError.
        """
        batch: list[Any] = as_inputs(inputs)
        _check_filled(batch)
        prompt = self._prompt(prompt_name)
        if prompt_name is not None and not all(isinstance(each, str) for each in batch):
            raise InvalidParameter("prompt_name", prompt_name, "nothing beside token ids")
        if prompt:
            batch = [prompt + each if isinstance(each, str) else each for each in batch]
        if pooling is not None and pooling not in _POOLINGS:
            raise InvalidParameter("pooling", pooling, ", ".join(_POOLINGS))
        size = self.vector_size
        if dimensions is not None and not 1 <= dimensions <= size:
            raise InvalidParameter("dimensions", dimensions, f"1 to {size}, this model's size")
        chosen = pooling or self.sentence.pooling
        vectors = self._vectors(batch, chosen, truncate_prompt_tokens)[:, :dimensions]
        wants_unit = self.sentence.is_normalized if is_normalized is None else is_normalized
        return normalize(vectors) if wants_unit else np.ascontiguousarray(vectors)

    def classify(
        self,
        inputs: str | tuple[str, str] | Sequence[str | tuple[str, str]],
        *,
        truncate_prompt_tokens: int | None = None,
        is_raw: bool = False,
    ) -> Vectors:
        """Scores of the model's labels for texts or pairs of texts. Shapes: -> [n, labels].

        Probabilities, or the head's own numbers where the model means those or `is_raw` asks.
        Raises: RequestError, BackendError.
        """
        encoder = self._encoder
        if encoder is None or not encoder.facts.config.labels:
            raise RequestError(f"{self.name} has no head that classifies.", "model")
        is_one = isinstance(inputs, str | tuple)
        batch: list[Any] = [inputs] if is_one else list(inputs)
        _check_filled(batch)
        names = [f"inputs[{index}]" for index in range(len(batch))]
        outputs = _numbers(
            encoder.runner.outputs(
                encoder.tokenize(batch, truncate=truncate_prompt_tokens, names=names)
            )
        )
        if is_raw:
            return outputs
        kind = encoder.facts.config.problem_type
        rows = [to_scores(row, kind) for row in outputs.tolist()]
        return np.asarray(rows, np.float32).reshape(outputs.shape)

    def close(self) -> None:
        """Free the memory. Calling it twice is harmless."""
        if self._llm is not None:
            self._llm.close()

    def __enter__(self) -> Embedder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _vectors(
        self, batch: Sequence[EncoderInput], pooling: Pooling, truncate: int | None
    ) -> Vectors:
        if self._encoder is None:
            if truncate is not None:
                allowed = "nothing, with a language model"
                raise InvalidParameter("truncate_prompt_tokens", truncate, allowed)
            if pooling == "cls":
                raise InvalidParameter("pooling", pooling, "mean or last, of a language model")
            rows = self._open_llm().embed(batch, pooling)  # type: ignore[arg-type]
            return np.asarray(rows, np.float32).reshape(len(batch), self.vector_size)
        if self.labels:
            raise RequestError(f"{self.name} classifies and makes no vectors.", "model")
        names = [f"inputs[{index}]" for index in range(len(batch))]
        sequences = self._encoder.tokenize(batch, truncate=truncate, names=names)
        return _numbers(self._encoder.runner.vectors(sequences, [pooling] * len(sequences)))

    def _prompt(self, name: str | None) -> str:
        """The text before every input."""
        name = name or self.sentence.default_prompt_name
        if name is None:
            return ""
        if name not in self.sentence.prompts:
            known = ", ".join(self.sentence.prompts) or "none: this model has no prompts"
            raise InvalidParameter("prompt_name", name, known)
        return self.sentence.prompts[name]

    def _open_llm(self) -> LLM:
        if self._llm is None:
            raise BackendError("This is an encoder.")
        return self._llm


def _check_filled(batch: Sequence[Any]) -> None:
    """The server's rule. Raises: InvalidParameter for a text without a character."""
    for index, each in enumerate(batch):
        if isinstance(each, str) and not each:
            raise InvalidParameter(f"inputs[{index}]", each, "a text that is not empty")


def _numbers(rows: Vectors) -> Vectors:
    """Raises: BackendError for rows that are none."""
    if not np.isfinite(rows).all():
        raise BackendError(NOT_NUMBERS)
    return rows


def normalize(vectors: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays. Shapes: [n, C]."""
    whole = vectors.astype(np.float64)
    lengths = np.sqrt(np.sum(np.square(whole), axis=1, keepdims=True))
    unit: Vectors = np.divide(whole, lengths, out=whole, where=lengths > 0).astype(np.float32)
    return unit


def as_inputs(inputs: Any) -> list[str | tuple[int, ...]]:
    """One input or several, as a list. Raises: InvalidParameter."""
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes) and not inputs:
        return []
    try:
        return as_prompts(inputs)
    except InvalidParameter as error:
        raise InvalidParameter("inputs", error.value, _INPUTS) from None
