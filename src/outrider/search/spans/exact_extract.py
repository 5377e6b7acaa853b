"""The most probable span of a passage as the answer.

Castel et al., "How Optimal is Greedy Decoding for Extractive Question Answering?" (arXiv
2108.05857), for models that only decode: the prompt is read once, and all spans are branches of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.types import Exactness
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.spans.passage import Prefix, end_tokens, grown, passage_of
from outrider.search.task import Search, Task
from outrider.search.tree import TokenTree

_RANGES = {
    "answers": Range(1, whole=True, hint="Give at least 1 answer"),
    "longest": Range(1, whole=True, hint="Give at least 1 token"),
    "rows": Range(1, whole=True, hint="Give at least 1 row"),
}


@dataclass(frozen=True, slots=True)
class Span:
    """A span of the passage, with the log-probability of its tokens and of an end after them.

    Attributes:
        start: index in the passage at which it first occurs.
        tokens: its tokens.
        logprob: sum of the log-probabilities of its tokens.
        end_logprob: log-probability of an end token after it.
        score: what spans are ordered by.
    """

    start: int
    tokens: tuple[int, ...]
    logprob: float
    end_logprob: float
    score: float

    @property
    def order(self) -> tuple[float, int, int]:
        """The best first; equal scores by their places."""
        return -self.score, self.start, len(self.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactExtract(Search):
    """Returns the spans of a passage with the largest probability that the model writes exactly
    them and then ends.

    The result is exact: that of scoring every span without an end token in it. Spans with the same
    tokens are one. The log-probability of a span that begins with certain tokens is at most that of
    these tokens, so the search reads the most probable beginnings first, and ends when none can
    become better than the worst answer.

    Spans have the tokens of the passage, most of which begin with a space. So a prompt should end
    where such tokens follow, as after `Answer:`.

    Attributes:
        passage: its text; None: the documents of the prompt, or the whole prompt without any. Where
            the prompt holds the text, its tokens there are used.
        answers: number of spans that are returned.
        longest: most tokens of a span.
        rows: most rows of a forward; it changes memory and speed, not the result.
        newline: whether a line end ends an answer as an end token does, as strings of `stop` do.
        by_length: whether scores are divided by the number of tokens, the end included. Few
            beginnings can be left out then.
    """

    passage: str | None = None
    answers: int = 1
    longest: int = 30
    rows: int = 16
    newline: bool = True
    by_length: bool = False

    reads_stops: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the best spans, the best first.

        Raises:
            OptionError: the passage is empty, or no token ends an answer.
        """
        tree = task.tree()
        walk = _Walk(
            search=self,
            task=task,
            tree=tree,
            passage=passage_of(task, self.passage),
            ends=end_tokens(task, newline=self.newline),
            longest=min(self.longest, task.most),
        )
        task.partial = walk.candidates
        walk.begin(tree.first())
        while walk.open:
            walk.step()
        return walk.candidates()


@dataclass(slots=True, kw_only=True)
class _Walk:
    """The beginnings of spans that are left to read.

    Attributes:
        search: the options.
        task: the prompt.
        tree: its branches: the prefixes of spans.
        passage: the tokens of the passage.
        ends: tokens that end an answer.
        longest: most tokens of a span.
        open: beginnings, the most promising first: the negative bound, their place, and themselves.
        found: the best spans, the best first.
    """

    search: ExactExtract
    task: Task
    tree: TokenTree
    passage: tuple[int, ...]
    ends: list[int]
    longest: int
    open: list[tuple[float, int, int, Prefix]] = field(
        default_factory=list[tuple[float, int, int, Prefix]]
    )
    found: list[Span] = field(default_factory=list[Span])

    def begin(self, logits: Float[Tensor, " vocab"]) -> None:
        """Take the first tokens of all spans as beginnings."""
        [row] = self.task.logprobs(logits[None], [()])
        root = Prefix.empty(self.tree.root, len(self.passage))
        self._add(root, row)

    def step(self) -> None:
        """Read the most promising beginnings in one forward."""
        count = min(self.search.rows, len(self.open))
        prefixes = [heappop(self.open)[3] for _ in range(count)]
        nodes, logits = self.tree.extend([(one.parent, one.token) for one in prefixes])
        rows = self.task.logprobs(logits, [node.tokens for node in nodes])
        ends = rows[:, self.ends].logsumexp(-1).tolist()
        for prefix, node, end in zip(prefixes, nodes, ends, strict=True):
            prefix.node = node
            self._note(prefix, end)
        for prefix, row in zip(prefixes, rows, strict=True):
            self._add(prefix, row)
        worst = self._worst
        self.open = [entry for entry in self.open if -entry[0] >= worst]
        heapify(self.open)
        self.tree.keep({id(one[3].parent): one[3].parent for one in self.open}.values())

    def _note(self, prefix: Prefix, end: float) -> None:
        """Count a prefix as a span."""
        total = prefix.logprob + end
        score = total / (prefix.depth + 1) if self.search.by_length else total
        if score == float("-inf"):
            return
        span = Span(prefix.starts[0], prefix.node.tokens, prefix.logprob, end, score)
        self.found = sorted([*self.found, span], key=lambda one: one.order)[: self.search.answers]

    def _add(self, prefix: Prefix, row: Float[Tensor, " vocab"]) -> None:
        """Take the continuations of a prefix as beginnings, without those that are banned."""
        if prefix.depth >= self.longest:
            return
        longer = grown(prefix, self.passage, self.ends)
        values = row[torch.tensor([one.token for one in longer], dtype=torch.int64)].tolist()
        for one, value in zip(longer, values, strict=True):
            one.logprob = prefix.logprob + value
            if one.logprob > float("-inf"):
                heappush(self.open, (-self._bound(one.logprob), one.starts[0], one.depth, one))

    def _bound(self, logprob: float) -> float:
        """Return the largest score of any span that begins with tokens of this log-probability."""
        return logprob / (self.longest + 1) if self.search.by_length else logprob

    @property
    def _worst(self) -> float:
        """The score that a new answer must reach."""
        full = len(self.found) == self.search.answers
        return self.found[-1].score if full else float("-inf")

    def candidates(self) -> list[Candidate]:
        """Return the answers, the best first."""
        return [
            self.task.candidate(
                one.tokens,
                one.score,
                logprob=one.logprob,
                finish="stop",
                end_logprob=one.end_logprob,
                start=one.start,
            )
            for one in self.found
        ]


METHOD = Method(
    name="exact-extract",
    cls=ExactExtract,
    summary="the most probable span of a passage, exactly, without scoring all of them",
    paper=Paper("How Optimal is Greedy Decoding for Extractive QA?", "2108.05857"),
    promise=Exactness.LOSSY,
    memory="a row for each beginning of a span that is read; the prompt is stored once",
)
