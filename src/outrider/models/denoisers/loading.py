"""Loads masked denoisers from folders, hub names or the family that ships."""

from pathlib import Path

import torch

from outrider.core.errors import OptionError, OutriderError
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.json_file import is_there, read_object
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.denoisers.formats import kind_of, read_denoiser, renamed
from outrider.models.denoisers.runner import MaskedDenoiser
from outrider.models.devices import resolve_device, resolve_dtype
from outrider.models.llama.weights import load_weights
from outrider.models.sources.families import families_folder, family, family_names
from outrider.models.sources.finding import local_folder


def is_denoiser(folder: str | Path | Checkpoint) -> bool:
    """Whether a folder holds a masked denoiser that `load_denoiser` knows; it is not loaded.

    A folder that cannot be read holds none.
    """
    if isinstance(folder, Checkpoint):
        return kind_of(folder.config) is not None
    file = Path(folder).expanduser() / "config.json"
    try:
        return is_there(file) and kind_of(read_object(file)) is not None
    except OutriderError:
        return False


def load_denoiser(
    source: str | Path | Checkpoint,
    *,
    name: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    threads: int | None = None,
) -> MaskedDenoiser:
    """Load the masked denoiser that `source` names.

    Args:
        source: a folder, a hub name, or a family whose target is a denoiser.
        name: its name in errors and reports; None uses the folder's name.
        dtype: `auto`, `float32`, `float64`, `bfloat16` or `float16`; `auto` is float32 on the CPU.
        device: see `resolve_device`.
        threads: CPU threads of its forwards; None leaves the choice to PyTorch.

    Raises:
        OptionError: an unknown dtype or device, or fewer threads than one.
        UnsupportedCheckpointError: no masked denoiser, or a feature that the runner lacks.
        CheckpointError: the checkpoint cannot be read, or its fields hold wrong values.
    """
    if threads is not None and threads < 1:
        raise OptionError(f"threads is {threads}", hint="Give a number from 1")
    place = resolve_device(device)
    kind = resolve_dtype(dtype, place)
    if kind == torch.int8:
        raise OptionError(
            f"dtype {dtype} is not available for masked denoisers", hint="Use float32 or bfloat16"
        )
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(_folder(source))
    config = read_denoiser(checkpoint.config)
    weights = load_weights(renamed(checkpoint), config.decoder, kind, place)
    return MaskedDenoiser(checkpoint, config, weights, name=name, threads=threads)


def _folder(source: str | Path) -> Path:
    """Return the folder of `source`; of a family, that of its target."""
    if str(source) in family_names(families_folder()) and not Path(source).is_dir():
        return family(str(source))["target"]
    return local_folder(source)
