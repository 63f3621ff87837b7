"""What the CPU device says about its kernels is what its C++ sources do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.ops.cpu.isa import supported_isas
from headrace.ops.cpu.kernels import ATTENTION_KERNELS, BF16_KERNELS, MATMUL_KERNELS, kernels
from headrace.quant.format import FORMATS

TIERS = Path(__file__).parents[3] / "csrc" / "cpu" / "tiers"


@pytest.mark.parametrize("tier", sorted(MATMUL_KERNELS))
def test_the_named_kernels_are_those_of_the_tier(tier: str) -> None:
    source = (TIERS / tier / "tier.cpp").read_text()
    names = r"(\w+),\s+" * 6
    table = re.search(rf"kMatmulKernels = \{{\s*{names}(true|false)\}}", source)
    assert table is not None
    assert table[2] == MATMUL_KERNELS[tier][0]
    assert table[3] == "matmul_float"
    assert table[5] == BF16_KERNELS.get(tier, ("nullptr", ""))[0]
    assert re.search(rf'#include ".*/{ATTENTION_KERNELS[tier][0]}\.inl"', source)


def test_every_tier_has_its_row() -> None:
    tiers = {path.name for path in TIERS.iterdir() if (path / "tier.cpp").is_file()}
    assert tiers == set(MATMUL_KERNELS) == set(ATTENTION_KERNELS)


@pytest.mark.parametrize("isa", supported_isas())
@pytest.mark.parametrize("family", ["embed", "matmul"])
def test_every_format_is_said_once_per_family(family: str, isa: str) -> None:
    said = [name for note in kernels(isa) if note.family == family for name in note.formats]
    assert sorted(said) == sorted(FORMATS)
