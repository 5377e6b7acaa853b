"""Converts checkpoints to the formats of other systems, and keeps them in the user's cache."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from outrider.bench.rivals.gguf_export import export_gguf
from outrider.kernels.cache import private_folder
from outrider.models.checkpoints.defaults import end_ids
from outrider.models.checkpoints.opening import open_checkpoint

_PACKAGES = {
    "llama_cpp": "llama-cpp-python",
    "gguf": "gguf",
    "openvino_genai": "openvino-genai",
}


def install_line(modules: Iterable[str]) -> str | None:
    """Return the command that installs missing ones of `modules`; None if none is missing."""
    missing = [_PACKAGES[module] for module in modules if find_spec(module) is None]
    return f"pip install {' '.join(missing)}" if missing else None


def checkpoint_ends(folder: Path) -> tuple[int, ...]:
    """Return the end tokens of the checkpoint at `folder`, as Outrider reads them."""
    checkpoint = open_checkpoint(folder)
    return end_ids(checkpoint.generation, checkpoint.config)


def converted(folder: Path, kind: str, convert: Callable[[Path], None]) -> Path:
    """Return the folder with the converted checkpoint; convert it if there is none.

    Args:
        folder: a Hugging Face checkpoint.
        kind: the format; part of the folder's name, with the checkpoint's fingerprint.
        convert: fills an empty folder; if it raises, nothing is kept.
    """
    kept = private_folder("rivals") / f"{open_checkpoint(folder).fingerprint}-{kind}"
    if kept.is_dir():
        return kept
    scratch = kept.with_name(f".{kept.name}.{uuid.uuid4().hex[:8]}")
    scratch.mkdir(parents=True)
    try:
        convert(scratch)
        if not kept.is_dir():
            os.rename(scratch, kept)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return kept


def gguf_file(folder: Path, kind: str) -> Path:
    """Convert the checkpoint at `folder` to a GGUF file of that kind. Raises like `export_gguf`."""

    def convert(scratch: Path) -> None:
        export_gguf(folder, scratch / "model.gguf", kind)

    return converted(folder, f"gguf-{kind}", convert) / "model.gguf"
