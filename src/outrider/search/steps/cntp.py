"""Cautious next token prediction: where the next token is uncertain, several continuations up to a
punctuation mark are sampled, and that with the lowest perplexity is kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.core.values import JsonValue
from outrider.inputs.given import TextCodec
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.steps.trials import Place, SegmentTrials, Trial
from outrider.search.steps.written import Written
from outrider.search.task import Search, Task

INFINITE = float("inf")
_RANGES = {
    "trials": Range(1, whole=True, hint="Give at least 1 trial"),
    "low": Range(0.0, hint="Give an entropy of 0 or more"),
    "high": Range(0.0, above=True, hint="Give an entropy above 0"),
    "span": Range(1, whole=True, hint="Give at least 1 token"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cautious(Search):
    """Samples. The number of trials grows with the entropy of the next token, after temperature and
    warps, from one token at `low` to `trials` trials at `high`. A trial ends with a punctuation
    mark, an end token or after `span` tokens; that with the lowest perplexity is kept as a whole.
    The score is the mean log-probability of a token under the model.

    Attributes:
        trials: most trials; 1 is sampling.
        low: entropy in nats up to which one token is sampled; infinite: everywhere.
        high: entropy from which `trials` trials are made.
        span: most tokens of a trial.
        punctuation: the characters that a token must end with to end a trial, besides spaces.
    """

    trials: int = 10
    low: float = 0.01
    high: float = 1.5
    span: int = 64
    punctuation: str = ".,\n?!:;)]}"

    sampling: ClassVar[Mapping[str, JsonValue]] = {"temperature": 1.2, "top_p": 0.9}

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)
        if self.high <= self.low < INFINITE:
            raise OptionError(
                f"low is {self.low:g} and high is {self.high:g}", hint="Give a low below high"
            )

    def number(self, entropy: float) -> int:
        """Return the number of trials at this entropy."""
        if entropy <= self.low:
            return 1
        share = min((entropy - self.low) / (self.high - self.low), 1.0)
        return int(1 + (self.trials - 1) * share)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the text. `about` has the number of places with several trials as `places`, and
        that of all their trials as `trials`.

        Raises:
            OptionError: there is no tokenizer.
        """
        text = Written(task)
        task.partial = text.unfinished
        ends = ending(task.need_codec("cautious next token prediction"), self.punctuation)
        tree, most = task.tree(), task.most
        writer = SegmentTrials(task, tree, ends)
        place = Place.of(task, tree.root, tree.first(), ())
        places, trials = 0, 0
        while most > 0:
            count = self.number(place.entropy)
            if count > 1:
                places, trials = places + 1, trials + count
            span = self.span if count > 1 else 1
            span = min(span, most - len(text.tokens))
            best = min(writer.write(place, text.tokens, count, span), key=_perplexity)
            text.add(best.tokens, best.logprob)
            if text.ended or len(text.tokens) >= most:
                break
            [node], [logits] = tree.extend([(best.place.node, best.tokens[-1])])
            tree.keep([node])
            place = Place.of(task, node, logits, text.tokens)
        return text.finished(places=places, trials=trials)


def _perplexity(trial: Trial) -> float:
    return trial.perplexity


def ending(codec: TextCodec, marks: str) -> Callable[[int], bool]:
    """Return whether the text of a token ends with one of the marks, besides spaces."""

    @cache
    def ends(token: int) -> bool:
        return codec.decode([token]).rstrip(" ").endswith(tuple(marks))

    return ends


METHOD = Method(
    name="cntp",
    cls=Cautious,
    summary="where entropy is high, the most probable of several samples up to a punctuation mark",
    paper=Paper("Cautious Next Token Prediction", "2507.03038"),
    promise=Exactness.LOSSY,
    needs="a tokenizer",
    memory="a row for each token of a trial",
)
