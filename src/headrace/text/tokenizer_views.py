"""Other views of one Hugging Face tokenizer, which share its vocabulary and merges in memory.

In: a tokenizer. Out: tokenizers that differ in one rule. A view is an object of its own, not a
switch that is turned for a call, so views serve threads at once.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from tokenizers.models import Model

from headrace.core.errors import ModelFileError


class TokenizerViews(NamedTuple):
    """One tokenizer, three ways: control tokens are read; are plain text; inside a text."""

    special_aware: Tokenizer
    plain: Tokenizer
    continuing: Tokenizer


def views_of(tokenizer: Tokenizer) -> TokenizerViews:
    """All views of a tokenizer. Raises: ModelFileError."""
    plain = without_control_tokens(tokenizer)
    return TokenizerViews(tokenizer, plain, without_prefix(plain))


class WholeTokenizer:
    """A tokenizer whose views are right for every text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises: ModelFileError."""
        self._views = views_of(tokenizer)

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        token_id: int | None = self._views.special_aware.token_to_id(token)
        return token_id

    def token_of(self, token_id: int) -> str | None:
        """The token of an id."""
        token: str | None = self._views.special_aware.id_to_token(token_id)
        return token

    def views_for(self, _texts: Sequence[str]) -> TokenizerViews:
        """The views."""
        return self._views


def with_model(tokenizer: Tokenizer, model: Model) -> Tokenizer:
    """The same rules and added tokens over other merges."""
    view = _share(tokenizer, model)
    view.add_tokens([token for _, token in sorted(tokenizer.get_added_tokens_decoder().items())])
    return view


def without_control_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """For text in which control tokens are text like any other.

    Raises: ModelFileError when the added tokens' ids have gaps that cannot be rebuilt.
    """
    added = tokenizer.get_added_tokens_decoder()
    plain = _share(tokenizer)
    plain.add_tokens([token for _, token in sorted(added.items())])
    for token_id, token in added.items():
        if plain.token_to_id(token.content) != token_id:
            raise ModelFileError(
                f"tokenizer.json gives the added token {token.content!r} the id {token_id}, which "
                "does not follow from the tokens before it. The file is damaged."
            )
    plain.encode_special_tokens = True
    return plain


def without_prefix(plain: Tokenizer) -> Tokenizer:
    """For a piece inside a text, where only the start of the whole text gets a space.

    That is Metaspace with "first"; other ways to add the space do it for each piece between added
    tokens, also within one text.
    """
    state = tokenizer_parts(plain)["pre_tokenizer"]
    steps = state.get("pretokenizers", [state]) if state else []
    prefixing = [step for step in steps if step.get("prepend_scheme") == "first"]
    if not prefixing:
        return plain
    for step in prefixing:
        step["prepend_scheme"] = "never"
    pre_tokenizer = copy.copy(plain.pre_tokenizer)
    pre_tokenizer.__setstate__(json.dumps(state).encode())
    view = _share(plain)
    view.pre_tokenizer = pre_tokenizer
    view.add_tokens([token for _, token in sorted(plain.get_added_tokens_decoder().items())])
    view.encode_special_tokens = True
    return view


def tokenizer_parts(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """`pre_tokenizer` and `decoder` as tokenizer.json has them; empty when there is none."""
    parts = {"pre_tokenizer": tokenizer.pre_tokenizer, "decoder": tokenizer.decoder}
    return {
        name: {} if part is None else json.loads(part.__getstate__())
        for name, part in parts.items()
    }


def _share(tokenizer: Tokenizer, model: Model | None = None) -> Tokenizer:
    view = Tokenizer(tokenizer.model if model is None else model)
    view.normalizer = tokenizer.normalizer
    view.pre_tokenizer = tokenizer.pre_tokenizer
    view.post_processor = tokenizer.post_processor
    view.decoder = tokenizer.decoder
    return view
