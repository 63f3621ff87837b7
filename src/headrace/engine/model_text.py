"""The text side of a model: its tokenizer and chat template.

In: an open model file. Out: Tokenizer, ChatTemplate. Touches no weights.
"""

from __future__ import annotations

from pathlib import Path

from headrace.core.errors import ConfigError
from headrace.text.chat_template import ChatTemplate
from headrace.text.tokenizer import Tokenizer
from headrace.weights.gguf import GgufReader
from headrace.weights.weight_reader import WeightReader


def load_text(
    reader: WeightReader,
    cache_dir: Path | None,
    is_brief: bool = False,
    template_file: str | None = None,
) -> tuple[Tokenizer, ChatTemplate | None]:
    """Tokenizer and chat template: that of a file, else the model's.

    Raises: ModelFileError, UnsupportedFormat, ConfigError.
    """
    tokenizer = load_tokenizer(reader, cache_dir, is_brief)
    if template_file is not None:
        tokenizer.chat_template = read_template(template_file)
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


def read_template(file: str) -> str:
    """The source of the setting `engine.chat_template`.

    Raises: ConfigError for a file that cannot be read, or is no template of chats.
    """
    field, allowed = (
        "engine.chat_template",
        "a UTF-8 file with a Jinja template that reads messages",
    )
    path = Path(file).expanduser()
    try:
        source = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "It is not UTF-8 text"
        raise ConfigError(field, file, allowed, f"{reason}.") from None
    template = ChatTemplate(source, {})
    if template.compile_error is not None:
        raise ConfigError(field, file, allowed, f"Jinja says: {template.compile_error}")
    if not template.reads_messages:
        raise ConfigError(field, file, allowed, "This one does not use the variable messages.")
    return source


def load_template(tokenizer: Tokenizer) -> ChatTemplate | None:
    """The model's chat template, None for a model without one."""
    if tokenizer.chat_template is None:
        return None
    return ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens)
