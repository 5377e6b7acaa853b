"""Tensors of a GGUF file, read on demand."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outrider.core.errors import CheckpointError
from outrider.kernels.layout import grouped_bytes
from outrider.models.checkpoints.gguf.header import Entry
from outrider.models.checkpoints.json_file import unreadable
from outrider.models.checkpoints.tensors import check_finite
from outrider.models.quantization.stored_blocks import REPACKED, Blocks, BlockSource

_CHUNK = 1 << 17
"""Weights that are decoded at once; larger chunks leave the cache of the processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTensor:
    """One tensor; see `Stored`.

    Attributes:
        file: the file.
        entry: its place.
        heads: heads whose rows llama.cpp has reordered; 0: rows are in the usual order.
    """

    file: Path
    entry: Entry
    heads: int = 0

    @property
    def kind(self) -> str:
        """The name of its format."""
        return self.entry.format.name

    @property
    def packed_bytes(self) -> int | None:
        """The bytes that kernels store."""
        known, shape = self.entry.format, self.entry.shape
        if self.kind not in REPACKED or len(shape) != 2:
            return None
        return grouped_bytes(REPACKED[self.kind], shape[0], shape[1], known.weights)

    def read(self) -> Tensor:
        """Return the float32 values."""
        known, shape = self.entry.format, self.entry.shape
        rows, _ = self._rows()
        out = np.empty((len(rows), shape[-1]), dtype=np.float32)
        step = max(1, _CHUNK // shape[-1])
        for first in range(0, len(rows), step):
            out[first : first + step] = known.decode_rows(np.array(rows[first : first + step]))
        whole = torch.from_numpy(out)
        check_finite(whole, self.entry.name, self.file)
        return self._ordered(whole if len(shape) > 1 else whole.view(-1, 1)).view(shape)

    def grouped(self) -> Blocks | None:
        """Return the blocks of the file for the formats that kernels read."""
        if self.kind not in REPACKED or len(self.entry.shape) != 2:
            return None
        rows, pages = self._rows()
        _advise(pages, "MADV_WILLNEED")
        return Blocks(
            format=self.entry.format,
            inputs=self.entry.shape[1],
            sources=(
                BlockSource(
                    rows=rows,
                    check=self._check,
                    release=lambda: _advise(pages, "MADV_DONTNEED"),
                ),
            ),
            order=self._ordered(torch.arange(len(rows)).view(-1, 1)).flatten(),
        )

    def _check(self) -> None:
        self.read()

    def _rows(self) -> tuple[NDArray[np.uint8], mmap.mmap]:
        """Map `[rows, bytes]` of the file; pages are read when they are used."""
        entry = self.entry
        length = entry.format.row_bytes(entry.shape[-1])
        before = entry.offset % mmap.ALLOCATIONGRANULARITY
        try:
            with self.file.open("rb") as stream:
                pages = mmap.mmap(
                    stream.fileno(),
                    entry.nbytes + before,
                    access=mmap.ACCESS_READ,
                    offset=entry.offset - before,
                )
        except (OSError, ValueError) as error:
            raise unreadable(self.file, error) from None
        return np.frombuffer(pages, np.uint8, entry.nbytes, before).reshape(-1, length), pages

    def _ordered(self, rows: Tensor) -> Tensor:
        """Undo the order of llama.cpp: in each head, rows of the two halves alternate."""
        if not self.heads:
            return rows
        if len(rows) % (2 * self.heads):
            raise CheckpointError(
                f"tensor {self.entry.name} of {self.file} has {len(rows)} rows "
                f"for {self.heads} heads",
                hint="Download the file again",
            )
        pairs = rows.reshape(self.heads, len(rows) // self.heads // 2, 2, -1)
        return pairs.transpose(1, 2).reshape(rows.shape)


def _advise(pages: mmap.mmap, advice: str) -> None:
    """Tell the system which pages are needed; not every system has this."""
    if hasattr(mmap, advice):
        pages.madvise(getattr(mmap, advice))
