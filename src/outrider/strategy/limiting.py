"""Strategies whose drafts are limited by the number of requests at once."""

from collections.abc import Callable
from dataclasses import replace

from outrider.policies.schedule import Schedule
from outrider.sampling import SamplingParams
from outrider.strategy.strategy import Strategy

StrategyFor = Callable[[SamplingParams], Strategy]
"""Makes the strategy of requests with these parameters."""


def limited(made: Strategy | StrategyFor, schedule: Schedule) -> Strategy | StrategyFor:
    """Return the strategy with this schedule, or a function that makes it."""
    if isinstance(made, Strategy):
        return replace(made, schedule=schedule)
    return lambda params: replace(made(params), schedule=schedule)
