"""Opens a checkpoint of any format."""

from pathlib import Path

from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.gguf.opening import find_gguf, open_gguf
from outrider.models.checkpoints.safetensors.folder import open_folder


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read the folder or the GGUF file at `path` (`~` allowed) without its weights.

    Raises:
        CheckpointError: the folder, config.json or the weights are missing, or a file is damaged.
    """
    place = Path(path).expanduser()
    file = find_gguf(place)
    return open_folder(place) if file is None else open_gguf(file)
