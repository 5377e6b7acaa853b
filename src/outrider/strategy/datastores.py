"""Opens the datastore of a drafter that retrieves from one, and checks that it fits the target."""

from collections.abc import Sequence
from pathlib import Path

from outrider.core.errors import OptionError
from outrider.memories.store import Datastore
from outrider.strategy.catalogue import drafter_record, drafter_records


def open_datastore(
    drafters: Sequence[str], path: str | Path | None, fingerprint: str | None
) -> Datastore | None:
    """Open the store at `path`; return None if no path is given.

    Args:
        drafters: names of the drafters that take part, the outermost first.
        path: a store written by `outrider datastore build`.
        fingerprint: fingerprint of the target's tokenizer, which must match the store's; None
            accepts any.

    Raises:
        OptionError: no drafter reads a store, two read different kinds, or a drafter needs a store
            and none is given.
        StoreError: the store does not exist, is of another kind, or is damaged.
        VocabularyError: it was made with another tokenizer.
    """
    readers = [one for name in drafters if (one := drafter_record(name)).store]
    if path is None:
        for reader in readers:
            if reader.needs_store:
                raise OptionError(
                    f"drafter {reader.name!r} retrieves from a datastore, but none is given",
                    hint="Build one with `outrider datastore build` and give its path as datastore",
                )
        return None
    if len({reader.name for reader in readers}) > 1:
        raise OptionError(
            f"drafters {' and '.join(reader.name for reader in readers)} read different kinds of "
            "datastores, but only one is given",
            hint="Use only one of these drafters",
        )
    if not readers or readers[0].store is None:
        known = sorted(one.name for one in drafter_records() if one.store)
        who = drafters[0] if drafters else "given"
        raise OptionError(
            f"a datastore is given, but drafter {who!r} reads none",
            hint=f"Use drafter {' or '.join(known)}, or leave it out",
        )
    return readers[0].store.open(Path(path).expanduser(), fingerprint=fingerprint)
