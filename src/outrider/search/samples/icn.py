"""In-context navigation: what was found is listed in the prompt, and another answer is asked for.

The list continues the prompt: it is where the answer begins, so that a chat template stays whole.
With the default template it is a numbered list of quoted answers, whose last one is open.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness, as_ids
from outrider.inputs.given import TextCodec
from outrider.protocols import Cache
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.plain import plain_tokens
from outrider.search.samples.answers import Extract, extract_of
from outrider.search.segments import Branch, Passage, branch_of
from outrider.search.task import Search, Task
from outrider.search.tree import TokenTree

_RANGES = {
    "runs": Range(1, whole=True, hint="Make at least 1 run"),
    "each": Range(1, whole=True, hint="Give at least 1 answer a run"),
    "length": Range(1, whole=True, hint="Give at least 1 token"),
    "within": Range(1, whole=True, optional=True, hint="Give at least 1 token, or none"),
}


@dataclass(frozen=True, slots=True)
class _Place:
    """A text that was read: its cache, its tokens after the prompt, and what may follow it."""

    cache: Cache
    tokens: tuple[int, ...]
    logprobs: Float[Tensor, " vocab"]


@dataclass(frozen=True, slots=True)
class _Found:
    """One answer: its tokens, its text, why it ended, and its run."""

    tokens: tuple[int, ...]
    answer: str
    finish: str
    run: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Icn(Search):
    """Finds `runs * each` answers with different first tokens. In each run the answers so far are
    listed after the prompt; the best `each` tokens that no answer began with yet begin new answers,
    and each is completed greedily after the prompt without the list.

    Candidates are in the order in which they were found, and the score is minus their number; with
    `vote` they are ordered by how many have the same answer, and the score is the share of these.
    A run whose list leaves no space in the window of the model ends the search.

    Attributes:
        runs: how often answers are listed.
        each: new answers of a run.
        length: most tokens of an answer.
        within: how many of the best tokens may begin an answer; None: all.
        listed: whether answers are listed; without the list, the best first tokens of the prompt
            begin all answers (for comparison).
        base: whether answers are completed without the list.
        intro: text between the prompt and the first item.
        opening: text before an answer; `{number}` is its number.
        closing: text at which an answer ends; empty: it ends where the model ends it.
        separator: text between an answer with its closing and the next item.
        vote: how the answer is found by which candidates are compared: `number`, `line`, `boxed`,
            `text`, or a function of a text; None: no vote.
    """

    runs: int = 10
    each: int = 10
    length: int = 64
    within: int | None = None
    listed: bool = True
    base: bool = True
    intro: str = ""
    opening: str = '{number}. "'
    closing: str = '"'
    separator: str = "\n"
    vote: str | Extract | None = None

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.vote is not None:
            extract_of(self.vote)
        if self.listed and not self.closing + self.separator + self.opening:
            raise OptionError(
                "nothing stands between the items of the list",
                hint="Give closing, separator or opening",
            )

    def prompt_after(self, answers: Sequence[str]) -> str:
        """Return the text after the prompt: the list of answers, and the beginning of another."""
        items = [
            f"{self._opening(number)}{answer}{self.closing}{self.separator}"
            for number, answer in enumerate(answers, 1)
        ]
        return self.intro + "".join(items) + self._opening(len(answers) + 1)

    def _opening(self, number: int) -> str:
        return self.opening.replace("{number}", str(number))

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return all answers."""
        codec = task.need_codec("in-context navigation")
        found: list[_Found] = []
        task.partial = lambda: self._candidates(task, found)
        base = self._read(task, codec, ())
        probed: set[str] = set()
        for number in range(self.runs if base is not None else 0):
            answers = [one.answer for one in found] if self.listed else []
            place = self._read(task, codec, answers) if answers else base
            if place is None or base is None:
                break
            firsts = self._firsts(task, place, probed)
            self._complete(task, base if self.base else place, firsts, number, found)
        return self._candidates(task, found)

    def _read(self, task: Task, codec: TextCodec, answers: Sequence[str]) -> _Place | None:
        """Read the list; None if no token fits after it."""
        tokens = plain_tokens(codec, self.prompt_after(answers))
        if task.cache.remaining - len(tokens) < 1:
            return None
        cache = branch_of(task.cache, tokens).cache
        tree = TokenTree(task.stage.model, cache.fork(), task.account)
        [logprobs] = task.logprobs(tree.first()[None], [tokens])
        return _Place(tree.cache, tokens, logprobs)

    def _firsts(self, task: Task, place: _Place, probed: set[str]) -> list[int]:
        """Return the best tokens with a text that no answer began with; add them to `probed`."""
        values, order = torch.sort(place.logprobs, descending=True, stable=True)
        found: list[int] = []
        for value, token in zip(values[: self.within].tolist(), order.tolist(), strict=False):
            if len(found) == self.each or value == float("-inf"):
                break
            text = task.text((token,)).strip()
            ends = token in task.end_ids or (self.closing and self.closing in text)
            if text and not ends and text not in probed:
                probed.add(text)
                found.append(token)
        return found

    def _complete(
        self,
        task: Task,
        place: _Place,
        firsts: Sequence[int],
        run: int,
        found: list[_Found],
    ) -> None:
        """Complete answers that begin with these tokens, and add them to `found`."""
        room = task.cache.remaining - len(place.tokens)
        most = min(self.length, task.sampler.params.max_new_tokens, room) - 1
        branches: list[Branch] = []
        for token in firsts:
            cache = place.cache.fork()
            cache.commit(as_ids([token]))
            branches.append(Branch(cache, (*place.tokens, token)))

        def until(new: Sequence[int]) -> int | None:
            if not self.closing or self.closing not in task.text(new):
                return None
            counts = range(1, len(new) + 1)
            return next(count for count in counts if self.closing in task.text(new[:count]))

        def done() -> list[Candidate]:
            answers = self._answers(task, firsts, task.passages.so_far(), run)
            return self._candidates(task, [*found, *answers])

        before, task.passages.so_far = task.partial, list
        task.partial = done
        numbers = range(len(branches))
        written = task.passages.write(branches, numbers, most=most, until=until, greedy=True)
        found += self._answers(task, firsts, written, run)
        task.partial = before

    def _answers(
        self, task: Task, firsts: Sequence[int], passages: Sequence[Passage], run: int
    ) -> list[_Found]:
        """Return the answers that have ended, of those with these first tokens."""
        found: list[_Found] = []
        for token, passage in zip(firsts, passages, strict=False):
            if passage.finish == "cut":
                continue
            tokens = (token, *passage.tokens)
            text = task.text(tokens)
            answer = text.split(self.closing)[0] if self.closing else text
            finish = "length" if passage.finish == "length" else "stop"
            found.append(_Found(tokens, answer.strip(), finish, run))
        return found

    def _candidates(self, task: Task, found: Sequence[_Found]) -> list[Candidate]:
        extract = None if self.vote is None else extract_of(self.vote)
        answers = [one.answer if extract is None else extract(one.answer) for one in found]
        votes: Counter[str | None] = Counter(answer for answer in answers if answer is not None)
        if extract is None:
            scores = [float(-i) for i in range(len(found))]
        else:
            scores = [votes[answer] / len(found) for answer in answers]
        order = sorted(range(len(found)), key=lambda i: (-scores[i], answers.index(answers[i]), i))
        return [
            task.candidate(
                found[i].tokens,
                scores[i],
                finish=found[i].finish,
                answer=answers[i],
                run=found[i].run,
                place=i,
            )
            for i in order
        ]


METHOD = Method(
    name="icn",
    cls=Icn,
    summary="answers with different first tokens: those found are listed, and others asked for",
    paper=Paper("In-context navigation", "2410.02284"),
    promise=Exactness.LOSSY,
    memory="a cache for each answer of a run",
)
