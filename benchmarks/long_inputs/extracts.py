"""Summaries made of a document's own sentences, and how near they are to human ones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from outrider.context.rankers.encoders import Encoder, unit
from outrider.context.rankers.ranking import Index
from outrider.core.types import LongContext, Passage
from outrider.inputs.documents.borders import SENTENCE, borders


def sentences(text: str) -> list[str]:
    """The sentences of a text, without the white space around them."""
    marks = borders(text)
    stops = [i for i in range(1, len(text)) if marks[i] == SENTENCE and marks[i - 1] != SENTENCE]
    cuts = [0, *stops, len(text)]
    found = (text[a:b].strip() for a, b in pairwise(cuts))
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def extract(
    context: LongContext, index: Index, room: int, *, every: int, mix: float, window: int
) -> tuple[int, ...]:
    """The best sentences within `room` tokens, in the order of the document.

    They are taken one by one, best first, as if each were written; one that does not fit is passed
    over. Each time `every` more tokens have been taken, scores are asked for again with the last
    `window` tokens taken as what was written last. For rankers that do not refresh these are the
    best sentences for the instruction.

    Args:
        context: its chunks are the sentences.
        index: scores them.
        room: most tokens of all that is taken: those of the human summary.
        every: tokens between two refreshes.
        mix: share of the instruction in the query.
        window: tokens of what was written last.
    """
    taken: list[int] = []
    written: list[int] = []
    looked, scores = 0, index.scores(context.query, None, mix)
    while True:
        if len(written) // every > looked:
            looked = len(written) // every
            scores = index.scores(context.query, _last(context, written, window), mix)
        left = room - len(written)
        fitting = [
            i
            for i, sentence in enumerate(context.chunks)
            if i not in taken and len(sentence) <= left
        ]
        if not fitting:
            return tuple(sorted(taken))
        best = max(fitting, key=lambda i: (scores[i], -i))
        taken.append(best)
        written += context.chunks[best].token_ids


def _last(context: LongContext, written: Sequence[int], window: int) -> Passage:
    ids = tuple(written[-window:])
    return Passage(context.decode(ids) if context.decode else "", ids)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How near one text is to another, from 0 to 1 (cosines may be below)."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Their harmonic mean; 0 where they do not add up to more."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both > 0 else 0.0


def likeness(encoder: Encoder, ours: Sequence[str], theirs: Sequence[str]) -> Likeness:
    """BERTScore's greedy matching (Zhang et al. 2020, eq. 1-3) with sentences in place of tokens.

    Precision: the mean over our sentences of the highest cosine with one of theirs; recall the
    other way round; no weights by rarity. It is no BERTScore: figures compare with each other only.
    Where a selection goes by the same encoder, that favours it.
    """
    if not ours or not theirs:
        return Likeness(0.0, 0.0)
    a, b = (unit(encoder.encode([Passage(text, ()) for text in texts])) for texts in (ours, theirs))
    cosines = np.asarray(a @ b.T)
    return Likeness(float(cosines.max(axis=1).mean()), float(cosines.max(axis=0).mean()))


def rouge_l(ours: str, references: Sequence[str]) -> float:
    """F1 of ROUGE-L with stems, the best over the references (rouge-score)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return max(scorer.score(reference, ours)["rougeL"].fmeasure for reference in references)
