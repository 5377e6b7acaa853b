"""CFIC: evidence from a long document, found by decoding the beginnings of its sentences only."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.inputs.given import TextCodec
from outrider.protocols.method import Method, Paper
from outrider.search.candidate import Candidate
from outrider.search.plain import plain_tokens
from outrider.search.spans.sentences import sentences_of
from outrider.search.spans.starts import Start, Starts
from outrider.search.task import Search, Task
from outrider.search.tree import Node, TokenTree

_RANGES = {
    "spans": Range(1, whole=True, hint="Give at least 1 span"),
    "reach": Range(0, whole=True, hint="Give at least 0 tokens"),
}
_AHEAD = 400
"""Characters from the beginning of a sentence by which sentences are told apart."""


@dataclass(slots=True)
class _Branch:
    """A beginning that is being decoded.

    Attributes:
        node: its last token.
        place: the sentences that have it.
        logprobs: the log-probability of each token.
    """

    node: Node
    place: Start
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class _Span:
    """Sentences `first` to `last`, with the score of the beginning."""

    first: int
    last: int
    score: float


@dataclass(frozen=True)
class _Document:
    """The sentences of a document, and their tokens with and without a space in front."""

    text: str
    codec: TextCodec
    bounds: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    @cached_property
    def bare(self) -> Starts:
        """Beginnings as in the document."""
        return self._starts("")

    @cached_property
    def spaced(self) -> Starts:
        """Beginnings after a space, as tokens within a text have it."""
        return self._starts(" ")

    def _starts(self, space: str) -> Starts:
        texts = [space + self.text[begin : begin + _AHEAD] for begin, _ in self.bounds]
        return Starts(texts, lambda text: plain_tokens(self.codec, text))

    def pieces(self, first: int, space: str, most: int) -> list[tuple[int, ...]]:
        """Return the tokens of the sentence `first` and of those that follow it, each with the
        space before it, while all but the first have at most `most` tokens together."""
        begin, end = self.bounds[first]
        found = [plain_tokens(self.codec, space + self.text[begin:end])]
        count = 0
        for _, after in self.bounds[first + 1 :]:
            piece = plain_tokens(self.codec, self.text[end:after])
            count += len(piece)
            if count > most:
                break
            found.append(piece)
            end = after
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cfic(Search):
    """Returns sentences of a document that answer the prompt. The prompt has read the document; its
    text is given again as an option.

    The best `spans` tokens with which a sentence begins are decoded on, among the sentences that
    begin so, until one sentence is left; the score is the mean log-probability of its tokens so
    far. One forward over this sentence and those that follow it gives the probability of the end of
    the text after each; the span ends where it is largest. Spans that overlap are merged. Equal
    beginnings of 400 characters count as one, which stands for all their places, at most `spans` of
    them. Whether sentences begin with a space is what the model gives more probability to.

    Attributes:
        spans: most spans.
        reach: most tokens after the first sentence of a span; the limit of new tokens bounds it
            too. The first sentence is never cut.
        document: the document; empty: the whole prompt.
        prefix: whether only beginnings of sentences are decoded; else the model writes freely, and
            the sentence that begins most like it is taken (for comparison).
        skip: whether the end is looked for; else a span is as long as `reach` allows (for
            comparison).
    """

    spans: int = 3
    reach: int = 256
    document: str = ""
    prefix: bool = True
    skip: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the spans, the best first."""
        codec = task.need_codec("cfic")
        text = self.document or task.prompt_text
        document = _Document(text, codec, sentences_of(text))
        if not document.bounds:
            raise OptionError("the document has no sentence", hint="Give document=...")
        spans: list[_Span] = []
        task.partial = lambda: _candidates(task, document, spans)
        tree = task.tree()
        logits = tree.first()
        [logprobs] = task.logprobs(logits[None], [()])
        space = _space(document, logprobs)
        if self.prefix:
            begun = self._begun(task, tree, document.spaced if space else document.bare, logprobs)
        else:
            begun = self._free(task, document)
        for first, score in begun:
            pieces = document.pieces(first, space, min(self.reach, task.most))
            last = first + self._last(task, pieces)
            spans.append(_Span(first, last, score))
        return _candidates(task, document, spans)

    def _begun(
        self, task: Task, tree: TokenTree, root: Starts, logprobs: Float[Tensor, " vocab"]
    ) -> list[tuple[int, float]]:
        """Decode the beginnings of sentences; return at most `spans` sentences with scores."""
        firsts = sorted(root.firsts)
        values = dict(zip(firsts, logprobs[firsts].tolist(), strict=True))
        tokens = sorted(firsts, key=lambda token: (-values[token], token))[: self.spans]
        chosen = [token for token in tokens if values[token] > float("-inf")]
        branches = [_Branch(tree.root, root.at(token), [values[token]]) for token in chosen]
        steps = list(zip(branches, chosen, strict=True))
        room = task.cache.remaining
        while steps := [
            (branch, token)
            for branch, token in steps
            if branch.place.open and len(branch.logprobs) <= room
        ]:
            nodes, logits = tree.extend([(branch.node, token) for branch, token in steps])
            rows = task.logprobs(logits, [node.tokens for node in nodes])
            following: list[tuple[_Branch, int]] = []
            for (branch, _), node, row in zip(steps, nodes, rows, strict=True):
                longer = branch.place.next()
                best, which = row[longer].max(0)
                token = longer[int(which)]
                branch.node, branch.place = node, branch.place.longer(token)
                branch.logprobs.append(float(best))
                following.append((branch, token))
            steps = following
        found = [
            (sentence, sum(branch.logprobs) / len(branch.logprobs))
            for branch in branches
            for sentence in branch.place.sentences
        ]
        found.sort(key=lambda pair: -pair[1])
        return found[: self.spans]

    def _free(self, task: Task, document: _Document) -> list[tuple[int, float]]:
        """Write greedily without the rule, and take the sentences that share most words."""
        most = min(task.most, 32)
        [passage] = task.passages.write([task.root], [0], most=most, greedy=True)
        words = set(task.text(passage.tokens).lower().split())
        shares: list[tuple[int, float]] = []
        for number, (begin, end) in enumerate(document.bounds):
            own = set(document.text[begin:end].lower().split())
            shares.append((number, len(own & words) / max(len(own | words), 1)))
        return sorted(shares, key=lambda pair: (-pair[1], pair[0]))[: self.spans]

    def _last(self, task: Task, pieces: Sequence[tuple[int, ...]]) -> int:
        """Return after how many more sentences the text most probably ends."""
        if not self.skip or len(pieces) == 1 or not task.end_ids:
            return len(pieces) - 1
        ends = torch.tensor([len(piece) for piece in pieces]).cumsum(0) - 1
        ends = ends[ends < task.cache.remaining]  # what does not fit is not read
        if len(ends) < 2:
            return 0
        tokens = [token for piece in pieces[: len(ends)] for token in piece]
        tree = task.tree()
        logits = tree.read(tree.root, tokens, want=ends.tolist())
        ids = sorted(task.end_ids)
        logprobs = torch.log_softmax(logits.float(), -1)[:, ids].logsumexp(-1)
        return int(logprobs.argmax())


def _space(document: _Document, logprobs: Float[Tensor, " vocab"]) -> str:
    """Return the space before a sentence, if the model begins with one."""

    def mass(root: Starts) -> float:
        return float(logprobs[sorted(root.firsts)].exp().sum())

    return " " if mass(document.spaced) > mass(document.bare) else ""


def _merged(spans: Sequence[_Span]) -> list[_Span]:
    """Join spans that share a sentence; the score is the best one."""
    found: list[_Span] = []
    for span in sorted(spans, key=lambda one: (one.first, one.last)):
        if found and span.first <= found[-1].last:
            one = found[-1]
            found[-1] = _Span(one.first, max(one.last, span.last), max(one.score, span.score))
        else:
            found.append(span)
    return sorted(found, key=lambda one: (-one.score, one.first))


def _candidates(task: Task, document: _Document, spans: Sequence[_Span]) -> list[Candidate]:
    found: list[Candidate] = []
    for span in _merged(spans):
        begin, end = document.bounds[span.first][0], document.bounds[span.last][1]
        text = document.text[begin:end]
        one = task.candidate(
            plain_tokens(document.codec, text), span.score, finish="stop", begin=begin, end=end
        )
        found.append(replace(one, text=text))
    return found


METHOD = Method(
    name="cfic",
    cls=Cfic,
    summary="sentences of a document as evidence: only their beginnings can be decoded",
    paper=Paper("CFIC", "2402.09760"),
    promise=Exactness.LOSSY,
    memory="a row for each token of a beginning and of a span; the document is stored once",
)
