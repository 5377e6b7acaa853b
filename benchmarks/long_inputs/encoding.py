"""An encoder that keeps its vectors on disk: most windows occur in many documents."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy import ndarray

from outrider.context.rankers.encoders import Encoder
from outrider.core.types import Passage

_KEY = 16


class Remembered:
    """Another encoder's vectors, in half precision, by the text of the passage.

    Args:
        inner: an encoder whose vectors depend on nothing but the text.
        file: where they are kept, appended to as they are made.
    """

    def __init__(self, inner: Encoder, file: Path) -> None:
        self.inner, self.file, self.made = inner, file, 0
        self._known: dict[bytes, ndarray] = {}
        self._width = 0
        if file.exists():
            self._load()

    @property
    def name(self) -> str:
        """That of the encoder inside."""
        return self.inner.name

    def encode(self, passages: Sequence[Passage]) -> ndarray:
        """Vectors `[passages, width]`; only those of new texts are made."""
        keys = [_key(passage) for passage in passages]
        new = {k: p for k, p in zip(keys, passages, strict=True) if k not in self._known}
        if new:
            vectors = np.asarray(self.inner.encode(list(new.values())), dtype=np.float16)
            self._known |= dict(zip(new, vectors, strict=True))
            self.made += len(new)
            self._append(list(new), vectors)
        return np.stack([self._known[key] for key in keys]).astype(np.float32)

    def _append(self, keys: list[bytes], vectors: ndarray) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as out:
            if not out.tell():
                out.write(np.int64(vectors.shape[1]).tobytes())
            out.write(b"".join(k + v.tobytes() for k, v in zip(keys, vectors, strict=True)))

    def _load(self) -> None:
        raw = self.file.read_bytes()
        width = int(np.frombuffer(raw[:8], np.int64)[0])
        size = _KEY + 2 * width
        for at in range(8, len(raw) - size + 1, size):
            key = raw[at : at + _KEY]
            self._known[key] = np.frombuffer(raw, np.float16, width, at + _KEY)
        whole = 8 + len(self._known) * size
        if len(raw) % size != whole % size:  # a run was stopped while it wrote
            with self.file.open("r+b") as rest:
                rest.truncate(len(raw) - (len(raw) - 8) % size)


def _key(passage: Passage) -> bytes:
    return hashlib.blake2b(passage.text.encode(), digest_size=_KEY).digest()
