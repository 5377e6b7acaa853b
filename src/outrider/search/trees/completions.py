"""Greedy completions of beginnings of a text, and the best next tokens after each of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from outrider.search.listing import Best
from outrider.search.segments import branch_of
from outrider.search.task import Task


@dataclass(frozen=True, slots=True)
class Text:
    """A whole text.

    Attributes:
        tokens: its tokens.
        finish: `stop` if it ended, `length` if it was cut at the limit.
    """

    tokens: tuple[int, ...]
    finish: str


@dataclass(slots=True)
class _Prefix:
    """What is known of a beginning: its completion, the best next tokens, and longer ones."""

    text: Text | None = None
    best: Best | None = None
    after: "dict[int, _Prefix]" = field(default_factory=dict[int, "_Prefix"])


@dataclass(slots=True, kw_only=True)
class Completions:
    """Writes completions with the drafter. With caches, a completion also gives the completions of
    all longer beginnings that it passes through, and the best next tokens after them: a tree search
    then asks the model for one completion per branch, and for nothing else.

    Attributes:
        task: the prompt.
        top: how many next tokens are listed.
        cached: whether what was written is kept.
        written: completions that were written.
    """

    task: Task
    top: int
    cached: bool = True
    written: int = 0
    _root: _Prefix = field(default_factory=_Prefix)

    def whole(self, path: Sequence[int]) -> Text:
        """Return the greedy completion of a beginning."""
        if self.ended(path):
            stops = path[-1] in self.task.end_ids
            return Text(tuple(path), "stop" if stops else "length")
        known = self._find(path)
        return self._write(path) if known.text is None else known.text

    def best(self, path: Sequence[int]) -> Best:
        """Return the best next tokens after a beginning; empty if it has ended."""
        if self.ended(path):
            return ()
        known = self._find(path)
        if known.best is not None:
            return known.best
        if self.cached:
            self._write(path)
            assert known.best is not None
            return known.best
        branch = branch_of(self.task.cache, path)
        [passage] = self.task.passages.write([branch], [0], most=1, greedy=True, top=self.top)
        return passage.best[0]

    def ended(self, path: Sequence[int]) -> bool:
        """Whether no token may follow."""
        return len(path) >= self.task.most or bool(path and path[-1] in self.task.end_ids)

    def _find(self, path: Sequence[int]) -> _Prefix:
        known = self._root if self.cached else _Prefix()
        for token in path:
            known = known.after.setdefault(token, _Prefix())
        return known

    def _write(self, path: Sequence[int]) -> Text:
        branch = branch_of(self.task.cache, path)
        room = self.task.most - len(path)
        [passage] = self.task.passages.write([branch], [0], most=room, greedy=True, top=self.top)
        self.written += 1
        text = Text(passage.branch.output, passage.finish)
        known = self._find(path)
        for token, best in zip(passage.tokens, passage.best, strict=True):
            known.text, known.best = text, best
            known = known.after.setdefault(token, _Prefix())
        return text
