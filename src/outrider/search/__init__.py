"""Search and sampling strategies: many texts or branches of one prompt, of which some are returned.

`task.py` is what a strategy gets, `tree.py` and `segments.py` are the two ways to write. A strategy
is one file with one record; `strategy/catalogue.py` lists them.
"""

from outrider.search.account import Limits
from outrider.search.candidate import Candidate, SearchResult
from outrider.search.run import run_search
from outrider.search.scorers.scorer import FunctionScorer, Scorer
from outrider.search.task import Search, Task

__all__ = [
    "Candidate",
    "FunctionScorer",
    "Limits",
    "Scorer",
    "Search",
    "SearchResult",
    "Task",
    "run_search",
]
