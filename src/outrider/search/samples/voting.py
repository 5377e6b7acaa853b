"""Samples that vote by their answers: shared by self-consistency and First Finish Search."""

from collections import Counter
from collections.abc import Sequence

from outrider.search.candidate import Candidate
from outrider.search.samples.answers import Extract
from outrider.search.segments import Passage
from outrider.search.task import Task

STOP = "stop"


def voted(
    task: Task, samples: int, extract: Extract | None, *, first: int | None = None
) -> list[Candidate]:
    """Write samples, and order them by how many of them have the same answer.

    Only texts that have ended vote. The score of a text is the share of the votes for its answer, 0
    if it has none; equal ones are in the order in which they ended, and of equally long ones the
    text with the larger mean log-probability is first. If no text has ended, all are returned in
    the order of that mean, which is then their score.

    Args:
        task: the prompt.
        samples: how many texts are begun.
        extract: finds the answer; None: each text is an answer of its own.
        first: how many texts vote: the first ones that end. None: all.
    """

    def candidates(passages: Sequence[Passage]) -> list[Candidate]:
        return _ordered(task, passages, extract, first)

    task.partial = lambda: candidates([one for one in task.passages.so_far() if one.tokens])
    passages = task.passages.write(
        [task.root] * samples, range(samples), most=task.most, shortest=first
    )
    return candidates(passages)


def _ordered(
    task: Task, passages: Sequence[Passage], extract: Extract | None, first: int | None
) -> list[Candidate]:
    def written(i: int) -> tuple[int, float, int]:
        return (len(passages[i].tokens), -passages[i].mean_logprob, i)

    ended = sorted((i for i, one in enumerate(passages) if one.finish == STOP), key=written)[:first]
    if not ended:
        order = sorted(range(len(passages)), key=lambda i: -passages[i].mean_logprob)
        return [_candidate(task, passages[i], i, passages[i].mean_logprob) for i in order]
    texts = {i: task.text(passages[i].tokens) for i in ended}
    answers = {i: str(i) if extract is None else extract(texts[i]) for i in ended}
    votes: Counter[str | None] = Counter(one for one in answers.values() if one is not None)
    share = {i: votes[answers[i]] / len(ended) for i in ended}
    places = {i: place for place, i in enumerate(ended)}
    earliest: dict[str | None, int] = {}
    for i in ended:
        earliest.setdefault(answers[i], places[i])
    order = sorted(ended, key=lambda i: (-share[i], earliest[answers[i]], places[i]))
    return [
        _candidate(task, passages[i], i, share[i], None if extract is None else answers[i])
        for i in order
    ]


def _candidate(
    task: Task, passage: Passage, sample: int, score: float, answer: str | None = None
) -> Candidate:
    finish = "unfinished" if passage.finish == "cut" else passage.finish
    return task.candidate(
        passage.tokens,
        score,
        logprob=passage.logprob,
        finish=finish,
        sample=sample,
        answer=answer,
    )
