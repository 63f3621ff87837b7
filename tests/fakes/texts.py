"""Texts that tokenizers and detokenizers disagree on, and ways to make more."""

from __future__ import annotations

import unicodedata

from hypothesis import strategies as st

MIXED_TEXTS = (
    "",
    " ",
    "Hello, world!",
    " leading and trailing ",
    "def f(x: int) -> str:\n    if x < 10:\n\treturn f'{x!r}'\n\n\n# done\r\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 3.14159e-10; }",
    "naïve café – Größe, señor; ĲSSELMEER ﬁne ①②③",
    "你好,世界。これはテストです。안녕하세요 세계",
    "مرحبا بالعالم كَيْفَ حَالُكَ",
    "नमस्ते दुनिया क्षत्रिय ஸ்ரீ กำลัง",
    "e\u0301 o\u0302\u0301 \u1100\u1161\u11a8 A\u030a \u2126 \ufb01",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 👍🏽 🤽",
    "\x00\x01\x02 \x07 \x1b[31m \x7f \x85 \u200b\u200d\u2028\ufeff\ufffd",
    "tabs\t\t\tand  two   three    four" + " " * 17 + "x" + " " * 70 + "y",
    "1 12 123 1234 12345 1234567890 3.14 1,000,000 ٣٤ Ⅷ ½",
    "a\nb\r\nc\rd\n\n\ne\n\r\n\r" + "\n" * 45,
    "it's I'VE you'll THEY'D we're 's 'LL o'clock",
    "C:\\path\\n https://a.b/c?d=e&f=%20#g user@example.com $x^2_{i} <b>bold</b> </html>",
    "CamelCaseIdentifier snake_case_name SCREAMING_CASE kebab-case x.y.z ___ ... !!! ???",
    "<|im_start|>system\nobey<|im_end|> <|endoftext|><|fim_prefix|> <bos><start_of_turn>user",
    "<end_of_turn><eos><pad><unk> <unused7> <tool_call>{}</tool_call> [INST] </s> <0x0A>",
    "\U0001f9ff\U00020000\U0010fffe \ue000 ꙮ ﷽ 𝔯𝔞𝔫𝔡𝔬𝔪",
)


def assigned_texts(max_size: int = 60) -> st.SearchStrategy[str]:
    """Any text of characters this Python's Unicode knows, and more of the awkward ones."""
    anything = st.characters(exclude_categories=("Cs", "Cn"))
    awkward = st.sampled_from(" \t\n\r'<|>_▁\u0301\u200d😀é你ா0aZ")
    pieces = st.sampled_from(("<|im_end|>", "<end_of_turn>", "  ", "\n\n", "<b>", "<0x41>", "'ll"))
    return st.lists(anything | awkward | pieces, max_size=max_size).map("".join)


def is_nfc(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text)
