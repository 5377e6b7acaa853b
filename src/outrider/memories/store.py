"""Stores on disk: a folder of memory-mapped arrays, and a page that describes them.

A store is written under a temporary name and renamed when it is complete, so that no partial store
is ever found. The page contains the fingerprint of the tokenizer: ids of another tokenizer are
meaningless, so opening such a store is an error.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from outrider.core.errors import StoreError, VocabularyError
from outrider.core.values import JsonValue

Document = Sequence[int] | NDArray[np.int32]
"""Token ids of one document."""

Arrays = Mapping[str, NDArray[Any]]
"""Arrays of a store by name; each has its own integer type."""

VERSION = 1
PAGE = "store.json"
_AGAIN = "Build the store again"
SEPARATOR = -1
"""Separates the documents of a corpus; it is not a token id."""


@runtime_checkable
class Datastore(Protocol):
    """A corpus in the form that one kind of drafter needs, on disk or in memory."""

    @classmethod
    def open(cls, path: Path, *, fingerprint: str | None = None) -> "Datastore":
        """Open the store at `path`; `fingerprint` must equal the fingerprint of the tokenizer of
        its ids."""
        ...

    @classmethod
    def build(cls, documents: Iterable[Sequence[int]]) -> "Datastore":
        """Build a store of these documents, in memory."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePage:
    """The description of a store.

    Attributes:
        kind: `rest` or `sam`.
        fingerprint: of the tokenizer that produced the ids.
        vocab_size: one more than the highest id of that tokenizer.
        tokens: number of tokens.
        documents: number of documents.
        tokenizer: name of the tokenizer when the store was made.
        details: properties that only this kind has.
        version: of the layout.
    """

    kind: str
    fingerprint: str
    vocab_size: int
    tokens: int
    documents: int
    tokenizer: str = ""
    details: dict[str, JsonValue] = field(default_factory=dict)
    version: int = VERSION


def write_store(
    path: Path,
    page: StorePage,
    arrays: Arrays,
    *,
    force: bool = False,
) -> None:
    """Write a store as one folder, either completely or not at all.

    Raises:
        StoreError: `path` already exists and `force` is not set, `path` exists but is not a store,
            or the folder cannot be written.
    """
    refuse_taken(path, force)
    path = path.resolve()  # for a link, write to its target
    draft, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("part", "old"))
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array, allow_pickle=False)
        (draft / PAGE).write_text(json.dumps(asdict(page), indent=1) + "\n", encoding="utf-8")
        if path.exists():
            path.rename(old)
        draft.rename(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for left in (draft, old):
            shutil.rmtree(left, ignore_errors=True)


def refuse_taken(path: Path, force: bool) -> None:
    """Raise `StoreError` if writing to `path` would overwrite data that must be kept, or cannot
    succeed. Call it before the expensive construction of a store."""
    if not path.exists():
        parent = next(place for place in path.resolve().parents if place.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise StoreError(
                f"{path} cannot be written: {parent} is "
                + ("read-only" if parent.is_dir() else "not a folder"),
                hint="Give another path",
            )
        return
    if not force:
        raise StoreError(f"{path} already exists", hint="Give --force to replace it")
    if not (path / PAGE).is_file():
        raise StoreError(f"{path} exists, but is not a store", hint="Give another path")


def read_page(path: Path) -> StorePage:
    """Read the description of the store at `path`.

    Raises:
        StoreError: there is no store, it is damaged, or it has another version.
    """
    file = path / PAGE
    try:
        if not file.is_file():
            raise StoreError(
                f"no store at {path}",
                hint="Build one: outrider datastore build CORPUS --out PATH --tokenizer TARGET",
            )
        record = json.loads(file.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except (OSError, ValueError):
        raise StoreError(f"{file} is damaged", hint=_AGAIN) from None
    version = record.get("version", VERSION) if isinstance(record, dict) else VERSION
    if version != VERSION:
        raise StoreError(
            f"{path} is a store of version {version}, but version {VERSION} is needed", hint=_AGAIN
        )
    try:
        return StorePage(**record)
    except TypeError:
        raise StoreError(f"{file} is damaged", hint=_AGAIN) from None


def open_store(
    path: Path, kind: str, arrays: Mapping[str, str], *, fingerprint: str | None = None
) -> tuple[StorePage, Arrays]:
    """Map the arrays of a store into memory.

    Args:
        path: its folder.
        kind: the expected kind.
        arrays: names and types of the required arrays, each of one dimension.
        fingerprint: of the tokenizer whose ids will be looked up; None skips the check.

    Raises:
        StoreError: there is no store, it is of another kind, or damaged.
        VocabularyError: it was made with another tokenizer.
    """
    page = read_page(path)
    if page.kind != kind:
        raise StoreError(
            f"{path} is a store of kind {page.kind!r}, but {kind!r} is needed",
            hint=f"Build one with --kind {kind}",
        )
    if fingerprint is not None and fingerprint != page.fingerprint:
        raise VocabularyError(
            f"the store {path} was made with another tokenizer ({page.tokenizer or 'unnamed'}, "
            f"fingerprint {page.fingerprint[:12]}; the target's is {fingerprint[:12]})",
            hint="Build it again with --tokenizer of the target",
        )
    return page, {name: _mapped(path / f"{name}.npy", dtype) for name, dtype in arrays.items()}


def check_together(path: Path, belong: bool) -> None:
    """Raise `StoreError` unless `belong` is true: the arrays of the store at `path` fit
    together."""
    if not belong:
        raise StoreError(f"{path} is damaged: its arrays do not fit together", hint=_AGAIN)


def _mapped(file: Path, dtype: str) -> NDArray[Any]:
    try:
        array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{file} is missing or damaged: {error}", hint=_AGAIN) from None
    if array.ndim != 1 or array.dtype != np.dtype(dtype):
        raise StoreError(
            f"{file} holds {array.dtype} {list(array.shape)}, but one row of {dtype} is expected",
            hint=_AGAIN,
        )
    return array


def size_on_disk(path: Path) -> int:
    """Return the total bytes of all files of a store."""
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())
