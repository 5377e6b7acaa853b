"""Stores of retrieving drafters, opened for a target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError
from outrider.strategy.catalogue import drafter_record, drafter_records


def open_datastore(drafters: Sequence[str], path: str | Path | None, codec: Any) -> Any:
    """The store at `path`, or None without one.

    Args:
        drafters: who will read it, the outermost first.
        path: what `outrider datastore build` wrote.
        codec: the target's tokenizer; its ids must be those of the store.

    Raises:
        OptionError: no drafter reads a store, two read different kinds, or one can not do without.
        StoreError: there is none, it is of another kind, or damaged.
        VocabularyError: it was made with another tokenizer.
    """
    readers = [one for name in drafters if (one := drafter_record(name)).reads_store]
    if path is None:
        for reader in readers:
            if reader.needs_store:
                raise OptionError(
                    f"drafter {reader.name!r} retrieves from a datastore, and none is given",
                    hint="Build one with `outrider datastore build` and give its path as datastore",
                )
        return None
    if len({reader.name for reader in readers}) > 1:
        raise OptionError(
            f"drafters {' and '.join(reader.name for reader in readers)} read different kinds of "
            "datastores, and one is given",
            hint="Use one of the two",
        )
    if not readers or readers[0].reads_store is None:
        known = sorted(one.name for one in drafter_records() if one.reads_store)
        who = drafters[0] if drafters else "given"
        raise OptionError(
            f"a datastore is given, and drafter {who!r} reads none",
            hint=f"Use drafter {' or '.join(known)}, or leave it out",
        )
    fingerprint = None if codec is None else codec.fingerprint
    return readers[0].reads_store(Path(path).expanduser(), fingerprint=fingerprint)
