"""Superposed Decoding: several drafts from one row a token.

Shen et al., "Superposed Decoding: Multiple Generations from a Single Autoregressive Inference Pass"
(arXiv 2405.18400).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.checks import Range, check_ranges
from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.inputs.documents.corpora import corpus_files, read_documents
from outrider.memories.corpus import Corpus
from outrider.memories.interpolated import WEIGHTS, Interpolated
from outrider.memories.store import PAGE
from outrider.protocols.method import Method, Paper
from outrider.protocols.model import TokenEmbedding
from outrider.search.candidate import Candidate
from outrider.search.task import Search, Task
from outrider.search.tree import Node, TokenTree

UNSEEN = -200.0
"""What a token loses that the n-gram model has never seen after a draft; published code."""
PROMPT = "prompt"
_RANGES = {
    "drafts": Range(1, whole=True, hint="Give at least 1 draft"),
    "temperature": Range(0.0, above=True, below=True, hint="Give a temperature above 0"),
    "tokens": Range(1, whole=True, optional=True, hint="Give at least 1 token"),
    "alpha": Range(0.0, 1.0, hint="Give a share from 0 to 1"),
}


@runtime_checkable
class Fingerprinted(Protocol):
    """A tokenizer whose ids can be told from those of another one."""

    @property
    def fingerprint(self) -> str:
        """Of its vocabulary."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """A text that runs on.

    Attributes:
        tokens: its tokens.
        score: sum of the scores of its tokens.
    """

    tokens: tuple[int, ...] = ()
    score: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Superposed(Search):
    """Writes several drafts with one row of the model for each place.

    The next input of the model is the mean of the embeddings of the last tokens of all drafts,
    weighted by the probabilities of the drafts. An n-gram model then says which of the best tokens
    continues which draft. The score of a draft is the sum of `(1 - alpha) * log p + alpha * log q`,
    with `p` of the model at `temperature` over its best `tokens`, and `q` of the n-grams; a token
    that no n-gram allows loses 200 instead. Scores are not log-probabilities of the model, which
    has not read any draft alone.

    Attributes:
        drafts: number of drafts.
        temperature: by which logits are divided; the published values are 0.06 for 3 drafts and
            0.12 for 10.
        tokens: how many best tokens may follow; None: three for each draft.
        alpha: the share of the n-gram model, if there is a corpus.
        corpus: where n-grams are counted: `prompt`, a folder that `outrider datastore build` has
            written, or a file or folder of texts; None: nowhere, and only the model decides.
        counts: an n-gram model in place of `corpus`; one object may serve many searches.
    """

    drafts: int = 3
    temperature: float = 0.06
    tokens: int | None = None
    alpha: float = 0.54
    corpus: str | None = None
    counts: Interpolated | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_ranges(self, _RANGES)

    @property
    def reads_files(self) -> bool:
        """Whether there is a corpus besides the prompt."""
        return self.corpus not in (None, PROMPT)

    def run(self, task: Task) -> Sequence[Candidate]:
        """Return the drafts, the best first.

        Raises:
            OptionError: several drafts need a model that reads embeddings.
        """
        embed = self._embedding(task)
        counts = self._counted(task)
        running, ended = [Draft()], list[Draft]()
        task.partial = lambda: self._found(task, running, ended, "unfinished")
        tree = task.tree()
        logits = tree.first()
        node = tree.root
        while True:
            running, new = self.chosen(task, counts, logits, running)
            ended = _best([*ended, *new], self.drafts)
            if self._done(running, ended) or len(running[0].tokens) >= task.most:
                return self._found(task, running, ended)
            node, logits = self.read(tree, node, running, embed)

    # -- one place --------------------------------------------------------------------------

    def chosen(
        self,
        task: Task,
        counts: Interpolated | None,
        logits: Float[Tensor, " vocab"],
        running: Sequence[Draft],
    ) -> tuple[list[Draft], list[Draft]]:
        """Continue the drafts with the best tokens.

        Args:
            task: the prompt.
            counts: the n-gram model; None: only the model decides.
            logits: of the next token, the same for all drafts.
            running: the drafts. The first place has one, so that no two drafts are equal.

        Returns:
            The drafts that run on, at most `drafts`, and those that have ended; the best first.
        """
        found: list[Draft] = []
        # Only settings that read the text, such as penalties, make the rows of drafts different.
        same = task.sampler.quick(len(running[0].tokens))
        texts = [one.tokens for one in running[: 1 if same else None]]
        rows = task.logprobs(logits.expand(len(texts), -1), texts)
        most = min(self.tokens or 3 * self.drafts, rows.shape[1])
        values, places = rows.topk(most, dim=-1)
        sharp = torch.log_softmax(values.double() / self.temperature, -1)
        sharp, places = (part.expand(len(running), -1) for part in (sharp, places))
        for draft, own, tokens in zip(running, sharp, places.tolist(), strict=True):
            scores = self._mixed(task, counts, draft, own, tokens).tolist()
            found += [
                Draft((*draft.tokens, token), draft.score + score)
                for token, score in zip(tokens, scores, strict=True)
                if score > float("-inf")
            ]
        ends = task.end_ids
        found = _best(found, (1 + max(len(ends), 1)) * self.drafts)
        going = [one for one in found if one.tokens[-1] not in ends][: self.drafts]
        # As in beam search: an end that is not among the best is no result, or one draft would
        # not be greedy decoding.
        return going, [one for one in found[: self.drafts] if one.tokens[-1] in ends]

    def read(
        self, tree: TokenTree, node: Node, running: Sequence[Draft], embed: TokenEmbedding | None
    ) -> tuple[Node, Float[Tensor, " vocab"]]:
        """Read the mean of the last tokens of the drafts after a node, as one row; return its node
        and the logits after it."""
        last = [one.tokens[-1] for one in running]
        if len(set(last)) == 1 or embed is None:
            [node], [logits] = tree.extend([(node, last[0])])
            return node, logits
        rows = embed(last)
        mixed = self.weights(running).to(rows) @ rows
        [node], [logits] = tree.extend([(node, -1)], mixed[None])
        return node, logits

    def weights(self, running: Sequence[Draft]) -> Float[Tensor, " drafts"]:
        """Return the share of each draft in the next input; they sum to 1."""
        return torch.softmax(torch.tensor([one.score for one in running], dtype=torch.float64), 0)

    def _mixed(
        self,
        task: Task,
        counts: Interpolated | None,
        draft: Draft,
        logprobs: Float[Tensor, " tokens"],
        tokens: Sequence[int],
    ) -> Float[Tensor, " tokens"]:
        """Return the scores of tokens after a draft; -inf for tokens that are banned."""
        if counts is None or self.alpha == 0:
            return logprobs
        longest = len(counts.weights)
        text = (*task.request.prompt.token_ids[-longest:], *draft.tokens)[-longest:]
        grams = torch.from_numpy(counts.probs(text, tokens)).to(logprobs)
        own = (1 - self.alpha) * logprobs
        return torch.where(grams > 0, own + self.alpha * grams.log(), own + UNSEEN)

    # -- before and after -------------------------------------------------------------------

    def _embedding(self, task: Task) -> TokenEmbedding | None:
        model = task.stage.model
        if self.drafts == 1:
            return None
        if model.embed is None or not model.info.reads_prompts:
            raise OptionError(
                f"superposed mixes embeddings, and {model.info.name} reads none",
                hint="Use a model with a native runner, or drafts=1",
            )
        if model.info.kv_policy:
            raise OptionError(
                f"superposed reads mixtures of tokens, of which {model.info.kv_policy} can keep no "
                "text",
                hint="Use drafts=1, or load the model without kv_policy",
            )
        return model.embed

    def _counted(self, task: Task) -> Interpolated | None:
        if self.counts is not None or self.corpus is None or self.alpha == 0:
            return self.counts
        if self.corpus == PROMPT:
            return Interpolated(Corpus.build([task.request.prompt.token_ids]))
        path = Path(self.corpus)
        if (path / PAGE).exists():
            known = task.codec.fingerprint if isinstance(task.codec, Fingerprinted) else None
            return Interpolated(Corpus.open(path, fingerprint=known))
        return counted(path, task)

    def _done(self, running: Sequence[Draft], ended: Sequence[Draft]) -> bool:
        """Whether no draft that runs can be among the best: scores never rise."""
        if not running:
            return True
        return len(ended) == self.drafts and ended[-1].score >= running[0].score

    def _found(
        self,
        task: Task,
        running: Sequence[Draft],
        ended: Sequence[Draft],
        finish: str | None = None,
    ) -> list[Candidate]:
        """Return the best drafts; `finish` says why those that run on do not."""
        best = _best([one for one in (*ended, *running) if one.tokens], self.drafts)
        best.sort(key=lambda one: -one.score)
        ends = task.end_ids
        return [
            task.candidate(one.tokens, one.score, finish=None if one.tokens[-1] in ends else finish)
            for one in best
        ]


def counted(path: Path, task: Task, weights: tuple[float, ...] = WEIGHTS) -> Interpolated:
    """Count the n-grams of a file or folder of texts. Raises `OptionError` if it cannot be read."""
    texts = (text for file in corpus_files([path]).read for text in read_documents(file))
    return Interpolated(Corpus.build(task.ids(text) for text in texts), weights)


def _best(drafts: Sequence[Draft], count: int) -> list[Draft]:
    """Return the best drafts. Drafts share the rows they are scored by, so exchanging tokens
    between two of them gives the same sum: rounding must not decide such ties."""
    return sorted(drafts, key=lambda one: -round(one.score, 9))[:count]


METHOD = Method(
    name="superposed",
    cls=Superposed,
    summary="several drafts from one row a token: the mean of their last tokens is read",
    paper=Paper("Superposed Decoding", "2405.18400"),
    promise=Exactness.LOSSY,
    needs="a model that reads embeddings; for n-grams, a corpus",
    memory="one row a token, however many drafts; with a corpus, 8 bytes for each of its tokens",
)
