"""Borrowed caches (`models/caches/borrowed.py`) of the compiled runner."""

from typing import cast

from outrider.models.caches.borrowed import BorrowedCache
from outrider.models.cpu.cache import NativeCache, NativeStorage


class BorrowedNativeCache(BorrowedCache, NativeCache):
    """A cache borrowed from a `NativeCache`: draft rows lie in the owner's storage."""

    @property
    def storage(self) -> NativeStorage:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The current storage of the owner."""
        return cast(NativeCache, self._owner).storage
