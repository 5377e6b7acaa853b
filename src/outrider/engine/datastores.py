"""Stores of retrieving drafters, opened for a target."""

from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError
from outrider.memories.corpus import Corpus
from outrider.memories.frozen import FrozenAutomaton

READERS = {"rest": Corpus.open, "sam": FrozenAutomaton.open}
"""Drafters that read a datastore, and how they open theirs."""

NEED_ONE = ("rest",)


def open_datastore(drafter: str, path: str | Path | None, codec: Any) -> Any:
    """The store at `path`, or None without one.

    Args:
        drafter: who will read it.
        path: what `outrider datastore build` wrote.
        codec: the target's tokenizer; its ids must be those of the store.

    Raises:
        OptionError: the drafter reads no store, or can not do without.
        StoreError: there is none, it is of another kind, or damaged.
        VocabularyError: it was made with another tokenizer.
    """
    if path is None:
        if drafter in NEED_ONE:
            raise OptionError(
                f"drafter {drafter!r} retrieves from a datastore, and none is given",
                hint="Build one with `outrider datastore build` and give its path as datastore",
            )
        return None
    if drafter not in READERS:
        raise OptionError(
            f"a datastore is given, and drafter {drafter!r} reads none",
            hint=f"Use drafter {' or '.join(READERS)}, or leave it out",
        )
    fingerprint = None if codec is None else codec.fingerprint
    return READERS[drafter](Path(path).expanduser(), fingerprint=fingerprint)
