"""Families of models that ship with the package."""

from pathlib import Path

from outrider.core.errors import OptionError, nearest

TIERS = ("target", "qualifier", "draft")


def families_folder() -> Path:
    """Return the folder of the families that ship with the package."""
    return Path(__file__).parents[2] / "families"


def family_names(folder: Path) -> list[str]:
    """Return the names of the families in `folder`, sorted."""
    return sorted(path.parent.name for path in folder.glob("*/target") if path.is_dir())


def family(name: str, folder: Path | None = None) -> dict[str, Path]:
    """Return the folder of each tier of a family: `target` and, if present, `qualifier`, `draft`.

    Args:
        name: name of the family, such as `tiny`.
        folder: folder of families; None uses that of the package.

    Raises:
        OptionError: there is no such family.
    """
    folder = folder or families_folder()
    known = family_names(folder)
    if name not in known:
        hint = nearest(name, known) if known else "This installation has none"
        raise OptionError(f"unknown family {name!r}", hint=hint)
    return {tier: folder / name / tier for tier in TIERS if (folder / name / tier).is_dir()}
