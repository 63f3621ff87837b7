"""Packs vLLM for a GPU machine without a network: what a dense bf16 model needs, in small pieces.

In: a folder of wheels, as pip downloads them without dependencies (docs/guides/cuda.md has the
command). Out: pieces that `cat PIECES | tar -xJf - -C site` makes a folder of, for
`benchmarks/cuda/vs_vllm.py --vllm-site site`. Nothing is installed here.

    python scripts/pack_vllm.py wheels pieces --piece-mib 45
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

DROPPED = (
    "vllm/vllm_flash_attn/_vllm_fa2_C*", "vllm/_moe_C*", "vllm/_rust*", "vllm/*vllm-rs*",
    "vllm/third_party/deep_gemm/*", "vllm/_deep_gemm*", "vllm/_qutlass*", "vllm/_flashmla*",
    "vllm/*fmha_sm100*", "*.data/scripts/vllm-rs", "*/tests/*", "*.pyi",
)  # fmt: skip
"""Kernels of other GPUs, of mixtures and of other formats; vLLM imports them where they are."""


def is_kept(name: str) -> bool:
    """Whether a file of a wheel is packed."""
    return not any(fnmatch.fnmatch(name, pattern) for pattern in DROPPED)


def entries(wheels: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of what is kept of all wheels. Raises: SystemExit without any."""
    found = sorted(wheels.glob("*.whl"))
    if not found:
        raise SystemExit(f"{wheels} holds no wheels; download them with `pip download` first.")
    for path in found:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                if not info.is_dir() and is_kept(info.filename):
                    yield info.filename, wheel.read(info)


def pack(wheels: Path, pieces: Path, piece_bytes: int) -> list[Path]:
    """Write the archive and cut it. Mutates: the folder `pieces`."""
    pieces.mkdir(parents=True, exist_ok=True)
    whole = pieces / "vllm-site.tar.xz"
    with lzma.open(whole, "wb", preset=6) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in entries(wheels):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    written = []
    with whole.open("rb") as file:
        while part := file.read(piece_bytes):
            written.append(pieces / f"{whole.name}.{len(written):02}")
            written[-1].write_bytes(part)
    whole.unlink()
    return written


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheels", type=Path, help="a folder of wheels, vLLM's among them")
    parser.add_argument("pieces", type=Path, help="a folder for the pieces")
    parser.add_argument("--piece-mib", type=int, default=45, help="the largest piece (45)")
    arguments = parser.parse_args()
    for path in pack(arguments.wheels, arguments.pieces, arguments.piece_mib * 2**20):
        print(f"{path} {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
