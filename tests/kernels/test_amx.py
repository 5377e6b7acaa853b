"""Whether tiles are used: the system, a trial in a child process and the user decide."""

from pathlib import Path
from typing import Any

import pytest

from outrider.kernels.amx import use_tiles

FILE = Path("kernels.so")


class Library:
    """The functions that decide, of a library on a system that permits tiles or does not."""

    def __init__(self, permitted: bool) -> None:
        self._permitted = permitted
        self.used: int | None = None

    def outrider_amx_permitted(self) -> int:
        return int(self._permitted)

    def outrider_amx_use(self, wanted: int) -> int:
        self.used = wanted
        return wanted


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was tried in a child process, where tiles work."""
    tried: list[tuple[Any, ...]] = []
    monkeypatch.delenv("OUTRIDER_AMX", raising=False)
    monkeypatch.setattr("outrider.kernels.amx.runs", lambda *given: tried.append(given) or True)
    return tried


def used(library: Library) -> bool:
    loaded: Any = library
    found = use_tiles(loaded, FILE)
    assert library.used == int(found)  # the library is always told, since it may have used them
    return found


def test_tiles_are_used_after_a_trial(trials: list[tuple[Any, ...]]) -> None:
    assert used(Library(permitted=True))
    assert trials == [(FILE, "outrider_amx_probe")]


def test_a_system_that_permits_none_is_not_tried(trials: list[tuple[Any, ...]]) -> None:
    assert not used(Library(permitted=False))
    assert trials == []


@pytest.mark.parametrize("value", ["off", "0", "No"])
def test_the_user_can_refuse(
    trials: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OUTRIDER_AMX", value)
    assert not used(Library(permitted=True))
    assert trials == []
    monkeypatch.delenv("OUTRIDER_AMX")
    assert used(Library(permitted=True))


@pytest.mark.usefixtures("trials")
def test_a_trap_leads_to_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child process that multiplies a tile has died; see `test_prebuilt.py`."""
    monkeypatch.setattr("outrider.kernels.amx.runs", lambda *_: False)
    assert not used(Library(permitted=True))
