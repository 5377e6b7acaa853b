"""Runs a strategy; a limit, a cancellation or an error of the scorer keeps what was found."""

from collections.abc import Sequence

import torch

from outrider.core.errors import one_line
from outrider.search.account import SearchStoppedError
from outrider.search.candidate import Candidate, SearchResult
from outrider.search.scorers.scorer import ScorerError
from outrider.search.task import Search, Task


def run_search(search: Search, task: Task, name: str) -> SearchResult:
    """Run a strategy for one prompt.

    Args:
        search: the strategy.
        task: the prompt.
        name: of the strategy, for the result.

    Raises:
        ScorerError: the scorer failed before anything was found.
        SearchStoppedError: a limit was reached, or it was cancelled, before anything was found; or
            there is nothing to find.
        LogitsError: the logits of the model cannot be used.
        OptionError: the strategy needs something that is not there.
        ContextError: the prompt does not fit.
    """
    stopped = ""
    found: Sequence[Candidate]
    try:
        with torch.inference_mode():
            found = search.run(task)
    except (SearchStoppedError, ScorerError) as error:
        with torch.inference_mode():
            found = list(task.partial())
        if not found:
            raise
        stopped = one_line(error.problem)
    if not found:
        raise SearchStoppedError(
            f"{name} found no text", hint="Give more space in the window, or other options"
        )
    account = task.account
    return SearchResult(
        candidates=tuple(found),
        strategy=name,
        stopped=stopped,
        forwards=account.forwards,
        tokens=account.tokens,
        scorer_calls=account.scorer_calls,
        cache_rows=account.most_rows,
        seconds=account.seconds,
        seed=task.sampler.seed,
    )
