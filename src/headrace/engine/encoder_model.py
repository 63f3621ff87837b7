"""EncoderModel: a loaded encoder with its tokenizer: texts to vectors, without a queue.

In: the folder of a model, a resolved EngineConfig. Out: sequences of tokens; vectors and outputs of
its head. Never cuts a text unasked. Safe to share between threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from headrace.core.engine_config import EncoderDtype, EngineConfig
from headrace.core.errors import (
    ConfigError,
    ContextTooLong,
    InvalidParameter,
    OutOfMemory,
    UnsupportedFormat,
)
from headrace.core.frozen import frozen
from headrace.core.units import format_bytes
from headrace.executor.encoder_runner import EncoderRunner, EncoderSequence, scratch_bytes
from headrace.executor.load_encoder import encoder_bytes, load_encoder, matrix_dtype
from headrace.executor.memory import PROGRAM_BYTES
from headrace.models.encoder_config import EncoderConfig
from headrace.models.registry import ENCODERS, encoder_class
from headrace.ops.protocol import Ops
from headrace.ops.table import make_ops
from headrace.text.input_encoder import Input, InputEncoder, InputTokens
from headrace.text.tokenizer import Tokenizer
from headrace.weights.sentence_config import SentenceConfig, read_sentence_config
from headrace.weights.weight_reader import WeightReader, open_weights

Progress = Callable[[str, float], None]
EncoderInput = str | tuple[str, str] | Sequence[int]
"""A text, a pair of texts, or token ids."""

_CUT = "truncate_prompt_tokens = -1 keeps as many as fit."


@frozen
class EncoderPlan:
    """What an encoder takes and holds. Units: bytes, tokens."""

    weights_bytes: int
    scratch_bytes: int
    max_model_len: int
    dtype: EncoderDtype

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.scratch_bytes + PROGRAM_BYTES

    @property
    def kv_bytes(self) -> int:
        return 0

    def describe(self) -> str:
        """The breakdown as one line for people."""
        return (
            f"memory {format_bytes(self.total_bytes)}: weights {format_bytes(self.weights_bytes)} "
            f"({self.dtype}), scratch {format_bytes(self.scratch_bytes)}, program "
            f"{format_bytes(PROGRAM_BYTES)}; inputs of up to {self.max_model_len} tokens"
        )


@frozen
class EncoderFacts:
    """What is known of an encoder before its weights are read."""

    config: EncoderConfig
    sentence: SentenceConfig
    plan: EncoderPlan


def read_encoder(reader: WeightReader, engine: EngineConfig, ops: Ops) -> EncoderFacts:
    """The numbers of an encoder, and what it will take.

    Raises: UnsupportedFormat, ModelFileError, ConfigError, OutOfMemory.
    """
    if reader.architecture not in ENCODERS:
        raise UnsupportedFormat(
            f"{reader.path} is of the architecture {reader.architecture!r}; encoders here: "
            f"{', '.join(ENCODERS)}."
        )
    config = encoder_class(reader.architecture).config_from_huggingface(reader.metadata)
    sentence = read_sentence_config(reader.path)
    limit = min(sentence.max_seq_length or config.max_tokens, config.max_tokens)
    wanted = engine.max_model_len
    if wanted is not None and wanted > config.max_tokens:
        raise ConfigError(
            "engine.max_model_len", wanted, f"1 to {config.max_tokens}, this model's positions"
        )
    dtype = matrix_dtype(ops, engine.encoder_dtype)
    longest = wanted or limit
    weights_bytes = encoder_bytes(config, ops, dtype)
    plan = EncoderPlan(weights_bytes, scratch_bytes(config, longest), longest, dtype)
    budget = engine.memory_bytes
    if budget is not None and plan.total_bytes > budget:
        raise OutOfMemory(
            f"{reader.path.name} needs {format_bytes(plan.total_bytes)}, and --memory gives "
            f"{format_bytes(budget)}. Give more.",
            needed_bytes=plan.total_bytes,
            available_bytes=budget,
        )
    return EncoderFacts(config, sentence, plan)


@frozen
class EncoderModel:
    """A model ready to run."""

    facts: EncoderFacts
    tokenizer: Tokenizer
    encoder: InputEncoder
    runner: EncoderRunner
    ops_name: str

    def tokenize(
        self,
        inputs: Sequence[EncoderInput],
        *,
        add_special_tokens: bool = True,
        truncate: int | None = None,
        names: Sequence[str] = (),
    ) -> list[EncoderSequence]:
        """Inputs as tokens. `truncate` is how many of each to keep; -1 is all that fit.

        `names` are what callers call the inputs, for errors.
        Raises: ContextTooLong, InvalidParameter, RequestError.
        """
        keep = self._check_truncate(truncate)
        texts: list[Any] = [each for each in inputs if _is_text(each)]
        made = iter(self.encode(texts, add_special_tokens, keep))
        sequences = []
        for index, each in enumerate(inputs):
            name = names[index] if names else "prompt"
            if _is_text(each):
                tokens = next(made)
                types = tokens.types if isinstance(each, tuple) else None
                self._check_made(tokens, types, name)
                sequence = EncoderSequence(tokens.ids, types)
            else:
                sequence = EncoderSequence(self._checked_ids(each, name)[:keep])  # type: ignore[arg-type]
            if not sequence.token_ids:
                raise InvalidParameter(name, each, "at least one token")
            if len(sequence.token_ids) > self.facts.plan.max_model_len:
                raise ContextTooLong(
                    len(sequence.token_ids), self.facts.plan.max_model_len, param=name, hint=_CUT
                )
            sequences.append(sequence)
        return sequences

    def encode(
        self, texts: Sequence[Input], add_special_tokens: bool = True, keep: int | None = None
    ) -> list[InputTokens]:
        """Tokens of texts and pairs, however many. See InputEncoder.encode."""
        if self.facts.sentence.is_lowered:
            texts = [_lowered(each) for each in texts]
        return self.encoder.encode(texts, add_special_tokens, keep)

    def _check_truncate(self, truncate: int | None) -> int | None:
        limit = self.facts.plan.max_model_len
        if truncate is None:
            return None
        if type(truncate) is not int or not (truncate == -1 or 1 <= truncate <= limit):
            allowed = f"1 to {limit} tokens, or -1 for as many as fit"
            raise InvalidParameter("truncate_prompt_tokens", truncate, allowed)
        return limit if truncate == -1 else truncate

    def _check_made(self, tokens: InputTokens, types: Sequence[int] | None, name: str) -> None:
        """Whether the model has what its tokenizer makes: other texts of a batch must not fail."""
        config = self.facts.config
        num_types = config.num_token_types if config.reads_token_types else None
        if max(tokens.ids, default=0) >= config.vocab_size:
            self._checked_ids(tokens.ids, name)
        if types and num_types is not None and max(types) >= max(1, num_types):
            allowed = f"texts whose tokens have types of this model, 0 to {num_types - 1}"
            raise InvalidParameter(name, max(types), allowed, "Its tokenizer.json is of another.")

    def _checked_ids(self, token_ids: Sequence[int], name: str) -> Sequence[int]:
        size = self.facts.config.vocab_size
        if not isinstance(token_ids, Sequence) or isinstance(token_ids, bytes):
            raise InvalidParameter(name, token_ids, "a text, a pair of texts or token ids")
        for token_id in token_ids:
            if type(token_id) is not int or not 0 <= token_id < size:
                allowed = f"token ids of this model, 0 to {size - 1}"
                raise InvalidParameter(name, token_id, allowed)
        return token_ids


def load_encoder_model(
    path: Path, engine: EngineConfig, progress: Progress | None = None
) -> EncoderModel:
    """Read, pack, and load the text side.

    Raises: ModelFileError, UnsupportedFormat, MissingTensor, OutOfMemory, ConfigError.
    """
    report = progress or (lambda what, share: None)
    report("reading", 0.0)
    ops = make_ops(engine.device, isa=engine.isa, num_threads=engine.num_threads)
    with closing(open_weights(path)) as reader:
        facts = read_encoder(reader, engine, ops)
        weights = load_encoder(facts.config, reader, ops, facts.plan.dtype)
        model = encoder_class(reader.architecture)(ops, facts.config, weights)
    tokenizer = Tokenizer.from_huggingface(path)
    report("loading", 1.0)
    return EncoderModel(facts, tokenizer, tokenizer.input_encoder, EncoderRunner(model), ops.name)


def _is_text(each: EncoderInput) -> bool:
    """A text or a pair of texts, and not token ids."""
    return isinstance(each, str) or (isinstance(each, tuple) and bool(each) and _is_pair(each))


def _lowered(each: Input) -> Input:
    return each.lower() if isinstance(each, str) else (each[0].lower(), each[1].lower())


def _is_pair(each: tuple[object, ...]) -> bool:
    return len(each) == 2 and all(isinstance(text, str) for text in each)
