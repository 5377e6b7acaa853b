"""Beam search: the few branches with the largest sum of log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

from outrider.core.checks import Range, check_ranges
from outrider.core.types import Exactness
from outrider.protocols.method import Method
from outrider.search.beams.core import Beams, begin
from outrider.search.candidate import Candidate
from outrider.search.task import Search, Task

RANGES = {
    "num_beams": Range(1, whole=True, hint="Give at least 1 beam"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamSearch(Search):
    """Keeps the `num_beams` best branches. The score of a text is its log-probability divided by
    its length to the power of `length_penalty`, as in `transformers`.

    Attributes:
        num_beams: branches.
        length_penalty: 0 prefers short texts, larger values longer ones.
        early_stopping: whether to stop as soon as `num_beams` texts have ended.
    """

    num_beams: int = 5
    length_penalty: float = 1.0
    early_stopping: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the finished texts, the best first."""
        beams = Beams(
            task=task,
            width=self.num_beams,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            most=task.most,
        )
        task.partial = beams.candidates
        tree = task.tree()
        logits = begin(beams, tree)
        while not beams.done:
            texts = [beam.node.tokens for beam in beams.running]
            chosen = beams.chosen(task.logprobs(logits, texts))
            if texts and len(texts[0]) + 1 >= beams.most:
                nodes, _ = tree.extend([(beam.node, token) for beam, token, _, _ in chosen])
                beams.advance(chosen, nodes)
                beams.give_up()
                break
            if not chosen:
                beams.running = []
                break
            nodes, logits = tree.extend([(beam.node, token) for beam, token, _, _ in chosen])
            beams.advance(chosen, nodes)
            tree.keep(nodes)
        return beams.candidates()


METHOD = Method(
    name="beam",
    cls=BeamSearch,
    summary="the few branches with the largest log-probability, all in one forward",
    promise=Exactness.LOSSY,
    memory="a row for each token of a branch; the prompt is stored once",
)
