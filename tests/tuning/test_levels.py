"""Limits by the number of requests: how they are chosen and judged, on virtual machines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np
import pytest

from outrider.policies.schedule import Cap
from outrider.tuning.concurrency.levels import (
    CHOICE,
    Level,
    Levels,
    Part,
    ladder,
    schedule_of,
)

Speed = Callable[[int, Cap], float]


@dataclass
class Server:
    """Serves blocks in virtual time; `speed` is the true speedup by requests and limit."""

    speed: Speed
    seed: int = 0
    noise: float = 0.04
    served: list[tuple[int, tuple[Cap, ...], Part]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def __call__(
        self, requests: int, caps: Sequence[Cap], part: Part, number: int
    ) -> Mapping[Cap, float]:
        self.served.append((requests, tuple(caps), part))
        return {
            cap: log(self.speed(requests, cap)) + self.rng.normal(0.0, self.noise) for cap in caps
        }


def levels(speed: Speed, first: Cap, seed: int = 0, **more: object) -> tuple[list[Level], Server]:
    server = Server(speed, seed)
    given = {"numbers": (2, 4, 16), "ended": lambda choosing: False} | more
    return Levels(first=first, serve=server, **given).run(), server  # type: ignore[arg-type]


def rows_cost(requests: int, cap: Cap) -> float:
    """Each drafted token gains, and costs more with more requests: best are 4, 2, 1 and 0."""
    best = {2: 4, 4: 2, 16: 0}[requests]
    return 1.0 + (0.15 if best else 0.0) - 0.06 * abs((cap or 0) - best)


def test_the_limit_follows_what_pays() -> None:
    found = [levels(rows_cost, 8, seed)[0] for seed in range(30)]
    right = sum([level.cap for level in own] == [4, 2, 0] for own in found)
    assert right >= 27
    for own in found:
        assert schedule_of(8, own).cap(16) == 0  # an error would have no speed above 0.97


def test_choice_and_judgement_have_different_prompts() -> None:
    found, server = levels(rows_cost, 8)
    parts = [(caps, part) for number, caps, part in server.served if number == 2]
    choice = [caps for caps, part in parts if part is Part.CHOICE]
    assert choice == [(8, 4, 2)] * CHOICE
    assert {caps for caps, part in parts if part is Part.JUDGING} == {(4,)}
    assert set(found[0].tried) == {"8", "4", "2"}


@pytest.mark.parametrize("speed", [0.7, 0.9, 0.98])
def test_what_loses_is_not_drafted(speed: float) -> None:
    """The best of several limits that all lose looks better than it is; other prompts judge."""
    wrong = 0
    for seed in range(40):
        found, _ = levels(lambda n, cap: speed, 8, seed)
        wrong += found[0].cap != 0
    assert wrong <= 2


def test_after_plain_decoding_more_requests_are_not_measured() -> None:
    found, server = levels(lambda n, cap: 0.8, 4)
    assert [level.cap for level in found] == [0, 0, 0]
    assert {number for number, _, _ in server.served} == {2}


def test_a_policy_that_adapts_is_left_alone_unless_it_loses() -> None:
    found, server = levels(lambda n, cap: {2: 1.2, 4: 1.0, 16: 0.8}[n], None)
    assert [level.cap for level in found] == [None, None, 0]
    assert all(part is Part.JUDGING for _, _, part in server.served)


def test_an_undecided_fixed_length_is_not_used() -> None:
    """Nothing supervises a fixed length: it must have shown that it is not slower."""
    found, _ = levels(lambda n, cap: 1.0, 4, ended=lambda choosing: True)
    assert found[0].speedup is None and found[0].cap == 0


def test_a_single_request_without_drafts_measures_nothing() -> None:
    found, server = levels(rows_cost, 0)
    assert [level.cap for level in found] == [0, 0, 0] and not server.served


def test_known_numbers_are_not_measured_again() -> None:
    before, _ = levels(rows_cost, 8)
    again = [Level.from_dict(level.to_dict()) for level in before[:1]]
    assert again == before[:1]
    found, server = levels(rows_cost, 8, found=again)
    assert {number for number, _, _ in server.served} == {4, 16}
    assert [level.cap for level in found] == [4, 2, 0]


def test_the_time_of_one_number_ends_its_blocks() -> None:
    calls: list[bool] = []

    def ended(choosing: bool) -> bool:
        calls.append(choosing)
        return len(calls) > 3

    _, server = levels(rows_cost, 8, numbers=(2,), ended=ended)
    assert len(server.served) <= 4


def test_limits_that_are_tried() -> None:
    assert ladder(8) == [8, 4, 2]
    assert ladder(3) == [3, 1]
    assert ladder(None) == [None]
