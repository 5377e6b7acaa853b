"""GFD: a beam over the tokens of the target, of which a language model with another tokenizer
scores the same bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import SHARE, Range, check_ranges
from outrider.core.errors import LogitsError
from outrider.core.types import Exactness
from outrider.inputs.given import TextCodec
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.protocols.method import Method, Paper
from outrider.sampling import NOTHING_ALLOWED
from outrider.search.candidate import Candidate
from outrider.search.fusion.marginal import Marginal, Scored, Warp
from outrider.search.fusion.model import ByteModel
from outrider.search.fusion.vocabulary import ByteVocabulary
from outrider.search.task import Search, Task
from outrider.search.tree import Node, TokenTree

_RANGES = {
    "weight": SHARE,
    "num_beams": Range(1, whole=True, hint="Give at least 1 beam"),
    "model_temperature": Range(0.0, above=True, below=True, hint="Give a number above 0"),
    "model_penalty": Range(0.0, above=True, below=True, hint="Give a number above 0, such as 2"),
    "model_window": Range(0, whole=True, hint="Give a number of tokens"),
    "spread": Range(0, whole=True, hint="Give a number of tokens"),
}
_NOTHING = Scored(0.0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gfd(Search):
    """Keeps the `num_beams` texts with the largest `(1 - weight) * t + weight * m`: `t` is the mean
    log-probability of a token under the target, and `m` that of the same bytes under another model,
    divided by the number of tokens that this model reads them as. The target is a recogniser, such
    as of speech, whose prompt is what it has recognised; the model knows the language.

    The model scores a text before its newest token, so that all continuations of a text share one
    score. A text ends where an end token is the target's first choice, and then has no other
    continuation; elsewhere it cannot end. Ended texts stay among the beams. The score of a result
    is that of its beam; `about` holds `t` as `target`, `m` as `model`, and `model_tokens`.

    Attributes:
        model: a folder, a known model or a hub name; or a built model with the bytes of its tokens.
            It is loaded once for each object of this class.
        weight: of the model; 0 is a beam search of the target alone.
        num_beams: texts that are kept, and tokens of each that are compared.
        model_temperature: divides the logits of the model.
        model_penalty: repetition penalty of the model; 1 is none.
        model_window: how many of its last tokens are penalised.
        spread: the search ends where the longest beam has this many tokens more than the shortest.
        late: whether the newest token is left out of what the model scores. Without it, each
            continuation is scored, which reads up to `num_beams` times as many rows.
        context: text that the model reads first, such as an instruction or the text before.
        threads: CPU threads of the model; None measures the best number.

    Raises:
        OptionError: an option is out of range.
    """

    model: str | Path | ByteModel
    weight: float = 0.2
    num_beams: int = 5
    model_temperature: float = 1.7
    model_penalty: float = 2.0
    model_window: int = 50
    spread: int = 20
    late: bool = True
    context: str = ""
    threads: int | None = None
    _loaded: list[ByteModel] = field(
        default_factory=list[ByteModel], init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the beams, the best first.

        Raises:
            CheckpointError: the model cannot be loaded.
            ContextError: a text does not fit into the window of the model.
            LogitsError: nothing is allowed after the prompt.
        """
        marginal = None if self.weight == 0 else self._marginal(task)
        return _Fused(self, task, task.tree(), target_bytes(task), marginal).run()

    def _marginal(self, task: Task) -> Marginal:
        if isinstance(self.model, ByteModel):
            model = self.model
        else:
            if not self._loaded:
                self._loaded.append(ByteModel.load(self.model, threads=self.threads))
            [model] = self._loaded
        warp = Warp(self.model_temperature, self.model_penalty, self.model_window)
        return Marginal(model, task.account, warp, self.context)


def target_bytes(task: Task) -> ByteVocabulary:
    """Return the bytes of the target's tokens. Raises `OptionError` without a tokenizer."""
    codec: TextCodec = task.need_codec("this strategy")
    size = task.stage.model.info.vocab_size
    if isinstance(codec, Tokenizer):
        return ByteVocabulary.of(codec, size)
    return ByteVocabulary([codec.decode([token]).encode() for token in range(size)])


@dataclass(frozen=True, slots=True)
class _Beam:
    """A text.

    Attributes:
        tokens: its tokens.
        logprob: sum of their log-probabilities under the target.
        scored: its bytes under the model, as far as they are scored.
        score: what beams are ordered by.
        node: its last token that the target has read.
        row: the number of its row in the newest logits; -1 for a text that has ended.
        finish: why it has ended; None: it runs on.
    """

    tokens: tuple[int, ...]
    logprob: float
    scored: Scored
    score: float
    node: Node
    row: int = -1
    finish: str | None = None


@dataclass(slots=True)
class _Fused:
    """One search.

    Attributes:
        search: its options.
        task: the prompt.
        tree: branches of the target.
        target: the bytes of its tokens.
        marginal: scores bytes with the model; None: the target decides alone.
        beams: the texts, the best first.
    """

    search: Gfd
    task: Task
    tree: TokenTree
    target: ByteVocabulary
    marginal: Marginal | None
    beams: list[_Beam] = field(default_factory=list[_Beam])

    def run(self) -> Sequence[Candidate]:
        """Write until all beams have ended, or differ too much in length."""
        self.task.partial = self._found
        logits = self.tree.first()[None]
        running = [_Beam((), 0.0, _NOTHING, 0.0, self.tree.root, row=0)]
        while running:
            new = self._continued(running, logits)
            ended = [beam for beam in self.beams if beam.finish]
            self.beams = self._best([*ended, *new])
            running = [beam for beam in self.beams if beam.finish is None]
            lengths = [len(beam.tokens) for beam in self.beams]
            if not running or max(lengths) - min(lengths) > self.search.spread:
                break
            steps = [(beam.node, beam.tokens[-1]) for beam in running]
            nodes, logits = self.tree.extend(steps)
            running = [
                replace(beam, node=node, row=row)
                for row, (beam, node) in enumerate(zip(running, nodes, strict=True))
            ]
            self.tree.keep(nodes)
        return self._found()

    def _continued(
        self, running: Sequence[_Beam], logits: Float[Tensor, "rows vocab"]
    ) -> list[_Beam]:
        """Return all texts with one more token that are compared."""
        rows = self._allowed([beam.tokens for beam in running], logits)
        pairs = [
            (beam, token, logprob)
            for beam, row in zip(running, rows, strict=True)
            for token, logprob in self._candidates(row)
        ]
        if not pairs:
            raise LogitsError(NOTHING_ALLOWED)
        return self._scored(pairs)

    def _allowed(
        self, texts: Sequence[tuple[int, ...]], logits: Float[Tensor, "rows vocab"]
    ) -> Float[Tensor, "rows vocab"]:
        return self.task.logprobs(logits, texts).cpu()

    def _candidates(self, row: Float[Tensor, " vocab"]) -> list[tuple[int, float]]:
        """Return the tokens that are compared after a text, with their log-probabilities: an end
        token alone if it is the best; else the best tokens that end nothing."""
        best = int(row.argmax())
        if best in self.task.end_ids:
            return [(best, float(row[best]))]
        own = row.clone()
        own[[token for token in self.task.end_ids if token < len(own)]] = -torch.inf
        values, tokens = torch.topk(own, min(self.search.num_beams, len(own)))
        pairs = zip(tokens.tolist(), values.tolist(), strict=True)
        return [(token, value) for token, value in pairs if value > float("-inf")]

    def _scored(self, pairs: Sequence[tuple[_Beam, int, float]]) -> list[_Beam]:
        """Return texts with one more token each."""
        most, ends = self.task.most, self.task.end_ids
        found: list[_Beam] = []
        for (beam, token, logprob), scored in zip(pairs, self._bytes(pairs), strict=True):
            tokens, total = (*beam.tokens, token), beam.logprob + logprob
            weight = self.search.weight
            score = (1 - weight) * total / len(tokens) + weight * scored.mean
            finish = "stop" if token in ends else "length" if len(tokens) >= most else None
            found.append(_Beam(tokens, total, scored, score, beam.node, finish=finish))
        return found

    def _bytes(self, pairs: Sequence[tuple[_Beam, int, float]]) -> list[Scored]:
        """Score the bytes of texts with the model: without their newest token, or with it."""
        if self.marginal is None:
            return [_NOTHING] * len(pairs)
        late = self.search.late
        texts = [
            self.target.text(beam.tokens if late else (*beam.tokens, token))
            for beam, token, _ in pairs
        ]
        different = list(dict.fromkeys(texts))
        scored = dict(zip(different, self.marginal.score(different), strict=True))
        self.marginal.keep()
        return [scored[text] for text in texts]

    def _best(self, beams: Sequence[_Beam]) -> list[_Beam]:
        ordered = sorted(beams, key=lambda beam: -beam.score)
        return ordered[: self.search.num_beams]

    def _found(self) -> list[Candidate]:
        """Return the beams as results."""
        rows = 0 if self.marginal is None else self.marginal.rows
        return [
            self.task.candidate(
                beam.tokens,
                beam.score,
                logprob=beam.logprob,
                finish=beam.finish or "unfinished",
                target=beam.logprob / len(beam.tokens),
                model=beam.scored.mean,
                model_tokens=beam.scored.length,
                model_rows=rows,
            )
            for beam in self.beams
        ]


METHOD = Method(
    name="gfd",
    cls=Gfd,
    summary="a beam whose bytes a language model with another tokenizer scores too",
    paper=Paper("Generative Fusion Decoding", "2405.14259"),
    promise=Exactness.LOSSY,
    needs="a language model with any tokenizer",
    memory="a row for each token of a beam; for the other model also V log-probabilities each",
)
