"""A driver of a model whose every token runs with one adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from headrace.executor.adapter_table import AdapterTable
from headrace.executor.input_batch import flatten
from headrace.ops.protocol import Ops
from oracle.driver import Driver, Piece, load_model

ROOM_BYTES = 2**30


class AdaptedDriver(Driver):
    """A driver that runs every step with one adapter."""

    def __init__(self, folder: Path, ops: Ops, adapter: Path, architecture: str) -> None:
        super().__init__(load_model(folder, ops), block_size=32)
        self._table = AdapterTable(self.model, ops, architecture, ROOM_BYTES)
        self._sha256 = self._table.load(adapter).sha256

    def step(self, pieces: list[Piece]) -> Mapping[str, np.ndarray]:
        (piece,) = pieces
        scheduled = [self._schedule(piece)]
        inputs = flatten(scheduled, self.block_size)
        rows = self._table.rows(scheduled, [self._sha256], inputs)
        inputs = replace(inputs, adapters=rows)
        hidden = self.model.over(self.model.ops.adapted(inputs)).forward(inputs, self.cache)
        wanted = np.arange(len(inputs.logit_rows), dtype=np.int32)
        return {piece.name: np.array(self.model.logits(hidden, wanted))}
