"""How a byte-level vocabulary cuts text into words before it merges bytes.

Owns the table from `tokenizer.ggml.pre`, as GGUF files name it, to the rules of that family. The
patterns are those of each family's own tokenizer.json; names and flags follow llama.cpp's
`llama-vocab.cpp`. A name that is not here is refused: a wrong split gives wrong tokens silently.
"""

from __future__ import annotations

from tokenizers import Regex, normalizers, pre_tokenizers

from headrace.core.frozen import frozen

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def _cl100k(number: str, letters: str = r"\p{L}", not_punctuation: str = r"\s\p{L}\p{N}") -> str:
    words = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{number}"
    return words + rf"| ?[^{not_punctuation}]+[\r\n]*" + _SPACES


def _o200k(number: str, suffix: str) -> str:
    upper, lower = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    start = r"[^\r\n\p{L}\p{N}]?"
    words = f"{start}{upper}*{lower}+{suffix}|{start}{upper}+{lower}*{suffix}|{number}"
    return words + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _SPACES


@frozen
class PreTokenizerRule:
    """One family's rules.

    Fields:
        patterns: each cuts the pieces that the one before left.
        keeps_whole_words: a word that is in the vocabulary is taken without merging.
        is_nfc: text is brought to Unicode form NFC first.
        adds_bos: whether a prompt begins with BOS when the file does not say.
    """

    patterns: tuple[str, ...]
    keeps_whole_words: bool = False
    is_nfc: bool = False
    adds_bos: bool = False

    def pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        """Build the splits, then the byte alphabet."""
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*splits, to_bytes])

    def normalizer(self) -> normalizers.Normalizer | None:
        return normalizers.NFC() if self.is_nfc else None


_GPT2_RULE = PreTokenizerRule((_GPT2,))
_DIGITS_THEN_GPT2 = PreTokenizerRule((r"\p{N}", _GPT2))
_LLAMA3 = PreTokenizerRule((_cl100k(r"\p{N}{1,3}"),), keeps_whole_words=True, adds_bos=True)
_QWEN2 = PreTokenizerRule((_cl100k(r"\p{N}"),), is_nfc=True)
_QWEN2_NO_NFC = PreTokenizerRule((_cl100k(r"\p{N}"),))
_QWEN35 = PreTokenizerRule(
    (_cl100k(r"\p{N}", letters=r"[\p{L}\p{M}]", not_punctuation=r"\s\p{L}\p{M}\p{N}"),), is_nfc=True
)
_GPT4O = PreTokenizerRule((_o200k(r"\p{N}{1,3}", f"{_CONTRACTIONS}?"),))
_TEKKEN = PreTokenizerRule((_o200k(r"\p{N}", ""),), keeps_whole_words=True, adds_bos=True)
_DEEPSEEK_CODER = PreTokenizerRule(
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"), adds_bos=True
)
_DEEPSEEK3 = PreTokenizerRule(
    (
        r"\p{N}{1,3}",
        "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        r"| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES,
    ),
    adds_bos=True,
)
# llama.cpp's rule for files whose converter did not know the family.
_DEFAULT = PreTokenizerRule(
    (
        r"[\p{P}\$\+<=>\^~\|]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+",
        "[0-9][0-9][0-9]",
    )
)

PRE_TOKENIZERS: dict[str, PreTokenizerRule] = {
    "default": _DEFAULT,
    "gpt-2": _GPT2_RULE,
    "phi-2": _GPT2_RULE,
    "mpt": _GPT2_RULE,
    "olmo": _GPT2_RULE,
    "smollm": _DIGITS_THEN_GPT2,
    "starcoder": _DIGITS_THEN_GPT2,
    "refact": _DIGITS_THEN_GPT2,
    "command-r": _DIGITS_THEN_GPT2,
    "codeshell": _DIGITS_THEN_GPT2,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "falcon3": _LLAMA3,
    "pixtral": _LLAMA3,
    "qwen2": _QWEN2,
    "megrez": _QWEN2,
    "deepseek-r1-qwen": _QWEN2_NO_NFC,
    "qwen35": _QWEN35,
    "gpt-4o": _GPT4O,
    "llama4": _GPT4O,
    "tekken": _TEKKEN,
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-v3": _DEEPSEEK3,
}
