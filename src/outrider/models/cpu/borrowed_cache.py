"""A borrowed cache (`models/caches/borrowed.py`) of the compiled runner."""

from typing import cast

from outrider.models.caches.borrowed import BorrowedCache
from outrider.models.cpu.cache import NativeCache, NativeStorage


class BorrowedNativeCache(BorrowedCache, NativeCache):
    """Borrowed from a `NativeCache`."""

    @property
    def storage(self) -> NativeStorage:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The owner's, whichever that is at the moment."""
        return cast(NativeCache, self._owner).storage
