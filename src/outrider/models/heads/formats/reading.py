"""Reads the files of a head, in any format that `HeadModule` can run."""

from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.json_file import is_there, read_object
from outrider.models.checkpoints.safetensors.folder import INDEX, SINGLE, open_folder
from outrider.models.heads.formats.clover import read_clover
from outrider.models.heads.formats.eagle1 import read_eagle1
from outrider.models.heads.formats.eagle3 import read_original, read_speculators
from outrider.models.heads.formats.head_file import HeadFile
from outrider.models.heads.formats.medusa import WEIGHTS, read_medusa, read_own_medusa
from outrider.models.heads.formats.mtp import read_mtp
from outrider.models.heads.formats.own import read_own
from outrider.models.heads.formats.recognising import HeadFormat, by_config, by_names

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def read_head(folder: str | Path, *, layers: int | None = None) -> HeadFile:
    """Read the head in `folder` (`~` allowed); its format is recognised.

    Args:
        folder: config.json and safetensors files.
        layers: number of layers of the target. Original heads of EAGLE and published Medusa heads
            do not name the states that they read, which depend on it.

    Raises:
        UnsupportedCheckpointError: a format, or a feature, that is not supported.
        CheckpointError: files that are missing, damaged or do not fit each other.
    """
    place = Path(folder).expanduser()
    known = None
    if is_there(place / "config.json"):
        file = place / "config.json"
        known = by_config(read_object(file), str(file))
        _refuse_pickles(place)
    checkpoint = open_head(place)
    match known or by_names(checkpoint.tensors, str(place)):
        case HeadFormat.SPECULATORS:
            return read_speculators(checkpoint, layers)
        case HeadFormat.EAGLE3:
            return read_original(checkpoint, layers)
        case HeadFormat.ORIGINAL_EAGLE1:
            return read_eagle1(checkpoint, layers)
        case HeadFormat.HINTED | HeadFormat.EAGLE1 | HeadFormat.FSPAD as own:
            return read_own(checkpoint, own)
        case HeadFormat.MTP:
            return read_mtp(checkpoint)
        case HeadFormat.MEDUSA:
            return read_medusa(checkpoint, layers)
        case HeadFormat.OWN_MEDUSA:
            return read_own_medusa(checkpoint)
        case HeadFormat.CLOVER:
            return read_clover(checkpoint)


def open_head(folder: Path) -> Checkpoint:
    """Open the files of a head without its weights.

    Raises:
        CheckpointError: files that are missing or damaged.
    """
    published = not is_there(folder / SINGLE) and is_there(folder / WEIGHTS)
    return open_folder(folder, WEIGHTS if published else SINGLE)


def _refuse_pickles(folder: Path) -> None:
    """Refuse folders whose only weights are pickles, by file name; nothing is opened."""
    if any(is_there(folder / name) for name in (SINGLE, INDEX, WEIGHTS)):
        return
    for pattern in _PICKLES:
        for file in sorted(folder.glob(pattern)):
            raise CheckpointError(
                f"{file} is a pickle, which can run code and is refused",
                hint="Convert it in a place that you trust: safetensors.torch.save_file(torch.load("
                f"{file.name!r:.60}, weights_only=True), {SINGLE!r})",
            )
