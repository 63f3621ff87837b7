"""The text side of a model: its tokenizer and chat template.

In: an open model file. Out: Tokenizer, ChatTemplate. Touches no weights.
"""

from __future__ import annotations

from pathlib import Path

from headrace.text.chat_template import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader
from headrace.weights.weight_reader import WeightReader


def load_text(
    reader: WeightReader, cache_dir: Path | None, is_brief: bool = False
) -> tuple[Tokenizer, ChatTemplate | None]:
    """Tokenizer and chat template. Raises: ModelFileError, UnsupportedFormat."""
    tokenizer = load_tokenizer(reader, cache_dir, is_brief)
    return tokenizer, load_template(tokenizer)


def load_tokenizer(
    reader: WeightReader, cache_dir: Path | None, is_brief: bool = False
) -> Tokenizer:
    """The tokenizer that comes with the weights.

    The metadata's digest is its key in the cache: a file that is moved or copied finds what was
    built, one that is changed or replaced never does, whatever its size and time. A folder's
    tokenizer.json is already what the cache would hold.
    Raises: ModelFileError, UnsupportedFormat.
    """
    if isinstance(reader, GgufReader):
        key = None if cache_dir is None else reader.metadata_digest()
        return Tokenizer.from_gguf(reader.metadata, cache_dir, key, is_brief)
    return Tokenizer.from_huggingface(reader.path)


def load_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The model's chat template, None for a model without one."""
    if tokenizer.chat_template is None:
        return None
    return ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)
