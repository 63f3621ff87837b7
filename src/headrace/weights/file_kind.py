"""What a file is that is no model, for whoever gave it as one.

In: the first bytes. Out: words. Reads nothing itself.
"""

from __future__ import annotations

SHOWN_BYTES = 40
_TEXT_CONTROLS = b"\t\n\r"
_KINDS = (
    (b"version https://git-lfs", "is a pointer of Git LFS; `git lfs pull` fetches the file itself"),
    (b"PK\x03\x04", "is a zip archive, as .bin, .pt and .pth files of PyTorch are"),
    (b"\x80\x02", "is a pickle, which would run code"),
    ((b"tjgg", b"lmgg", b"fmgg"), "has the format of ggml that was before GGUF; convert it again"),
    (b"\x89PNG", "is a PNG image"),
    (b"\xff\xd8\xff", "is a JPEG image"),
    (b"%PDF", "is a PDF"),
    (b"\x1f\x8b", "is compressed by gzip"),
    ((b"{", b"["), "is JSON"),
    (b"<", "is a page of HTML or XML"),
)


def describe_file(beginning: bytes) -> str:
    """What goes on a sentence about the file, such as "is JSON". `beginning`: SHOWN_BYTES bytes."""
    if not beginning:
        return "is empty"
    for magic, words in _KINDS:
        if beginning.startswith(magic):
            return words
    if beginning[8:9] == b"{":
        # Behind the length of the header.
        return "is one safetensors file"
    if all(byte >= 0x20 or byte in _TEXT_CONTROLS for byte in beginning):
        # A character may be cut at the end.
        text = beginning.decode("utf-8", "ignore").strip().partition("\n")[0]
        return f'begins with the text "{text}"'
    return f"begins with the bytes {beginning[:4].hex(' ')}"
