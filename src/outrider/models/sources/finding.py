"""Finds the files of a model that a folder, a short name or a hub name stands for."""

import difflib
import re
from pathlib import Path

from outrider.core.errors import CheckpointError, nearest
from outrider.models.sources.families import families_folder, family, family_names
from outrider.models.sources.known import Known, known_model, known_names

_HUB_NAME = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py"]
_HUB_COPIES = ["original/*", "consolidated*"]
"""Copies of the weights in other formats, which some repositories contain."""


def local_folder(source: str | Path) -> Path:
    """Return the folder or file of `source`.

    An existing folder or file comes first, then a known model (`known.KNOWN`). A hub name is
    downloaded, or found in the download cache.

    Raises:
        CheckpointError: the folder does not exist, and no model on the hub has this name; a known
            model is neither installed nor to be had from the hub.
    """
    folder = Path(source).expanduser()
    if folder.exists() or folder.suffix == ".gguf" or not _HUB_NAME.fullmatch(str(source)):
        return folder
    if str(source) in family_names(families_folder()):
        tiers = ", ".join(str(path) for path in family(str(source)).values())
        raise CheckpointError(
            f"{source!r} is a family of models, and one model is needed here",
            hint=f"Give {source!r} as the target alone, or one of its folders: {tiers}",
        )
    if (known := known_model(str(source))) is not None:
        return here(known) or _fetched(known)
    try:
        return _snapshot(str(source))
    except Exception as error:  # network, hub and validation errors have no common base class
        raise CheckpointError(
            f"{source} is neither a folder nor a model that could be fetched from the Hugging "
            f"Face hub ({_reason(error)})",
            hint=_name_like(str(source))
            or "Check the spelling and the network, or give the path of a folder",
        ) from error


def here(known: Known) -> Path | None:
    """Return a known model of this machine: its package, else the cache of the hub, else None."""
    return known.installed or _cached(known)


def _cached(known: Known) -> Path | None:
    """Return the complete copy in the download cache, or None."""
    try:
        folder = _snapshot(known.hub, local_files_only=True)
    except Exception:  # nothing cached, or a cache that cannot be read
        return None
    complete = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    return folder if complete else None


def _fetched(known: Known) -> Path:
    try:
        return _snapshot(known.hub)
    except Exception as error:  # see `local_folder`
        raise CheckpointError(
            f"{known.name} is not on this machine, and {known.hub} could not be fetched from the "
            f"Hugging Face hub ({_reason(error)})",
            hint=f"Install it with: {known.install}",
        ) from error


def _snapshot(name: str, *, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name,
            allow_patterns=_HUB_FILES,
            ignore_patterns=_HUB_COPIES,
            local_files_only=local_files_only,
        )
    )


def _reason(error: Exception) -> str:
    """Return the first line of an error, or its class."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:160]


def _name_like(name: str) -> str:
    """Return a hint with the most similar name of a family or known model, or an empty text."""
    known = [*family_names(families_folder()), *known_names()]
    return nearest(name, known) if difflib.get_close_matches(name, known) else ""
