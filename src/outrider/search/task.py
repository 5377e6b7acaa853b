"""What a search strategy gets: the models, the prompt, and the means to write and judge."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.decoding import Stage
from outrider.inputs.given import TextCodec
from outrider.models.caches.prefill import start_in_parts
from outrider.protocols import Cache, LanguageModel, Request
from outrider.sampling import Sampler
from outrider.search.account import Account
from outrider.search.candidate import Candidate
from outrider.search.plain import plain_tokens
from outrider.search.records import Records
from outrider.search.scorers.scorer import Scorer, checked_scores
from outrider.search.segments import Branch, Passages
from outrider.search.tree import TokenTree

_JUDGED = 16
"""Texts that are judged at once; limits are looked at between."""


class Search(ABC):
    """A strategy; the plain fields of a subclass are its options.

    Attributes:
        sampling: options of `SamplingParams` where the user gives none, such as the temperature of
            a strategy that compares several samples.
        reads_stops: whether it ends texts at stop strings. Where it does not, they are refused.
    """

    sampling: ClassVar[Mapping[str, JsonValue]] = {}
    reads_stops: ClassVar[bool] = False

    @property
    def reads_files(self) -> bool:
        """Whether its options name a file or folder to read, which clients of a server may not."""
        return False

    @abstractmethod
    def run(self, task: "Task") -> Sequence[Candidate]:
        """Return the texts found, the best first.

        While it runs, `task.partial` should return what is found so far: it is the result if a
        limit, a cancellation or an error of the scorer ends the search.
        """


@dataclass(slots=True, kw_only=True)
class Task:
    """One prompt for one strategy.

    Attributes:
        stage: the target with its drafter.
        request: prompt and settings; `request.sampler.seed` is fixed.
        account: what was spent.
        codec: the tokenizer, if there is one.
        scorer: judges texts, if the user gives one.
        records: what earlier searches have shown about drafts.
        prompt_rows: how many tokens of the prompt the next forward reads at most; None: the prompt
            is read at once.
        partial: returns what is found so far.
    """

    stage: Stage
    request: Request
    account: Account
    codec: TextCodec | None = None
    scorer: Scorer | None = None
    records: Records = field(default_factory=Records)
    prompt_rows: Callable[[], int] | None = None
    partial: Callable[[], Sequence[Candidate]] = lambda: ()
    _cache: Cache | None = field(default=None)
    _prompt_text: str | None = field(default=None)
    _passages: Passages | None = field(default=None)

    # -- what is asked ----------------------------------------------------------------------

    @property
    def sampler(self) -> Sampler:
        """The settings: temperature, warps, penalties, seed and end tokens."""
        return self.request.sampler

    @property
    def most(self) -> int:
        """Most tokens of a text."""
        return min(self.sampler.params.max_new_tokens, self.cache.remaining)

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return self.sampler.end_ids

    # -- writing ----------------------------------------------------------------------------

    @property
    def cache(self) -> Cache:
        """The cache that has read the prompt up to its last token. It is shared: never write it."""
        if self._cache is None:
            self._cache = self.read(self.stage.model)
        return self._cache

    def read(self, model: LanguageModel) -> Cache:
        """Return a new cache of a model that has read the prompt up to its last token.

        A prompt that contains more than token ids is always read at once, and so is one whose end
        matters, as with guidance by another prompt.

        Raises:
            ContextError: the model cannot read it.
            SearchStoppedError: the search must end before all parts are read.
        """
        prompt, next_rows = self.request.prompt, self.prompt_rows
        if next_rows is None or not model.info.reads_in_parts(prompt):
            [cache] = model.start([prompt])
            return cache

        def rows() -> int:
            self.account.check()  # before each forward, as everywhere
            return next_rows()

        return start_in_parts(model, prompt, rows)

    def tree(self) -> TokenTree:
        """Return a new tree of branches after the prompt."""
        return TokenTree(self.stage.model, self.cache.fork(), self.account)

    @property
    def root(self) -> Branch:
        """The branch without any token."""
        return Branch(self.cache)

    @property
    def passages(self) -> Passages:
        """Writes passages with the drafter."""
        if self._passages is None:
            self._passages = Passages(
                stage=self.stage, request=self.request, records=self.records, account=self.account
            )
        return self._passages

    def logprobs(
        self, logits: Float[Tensor, "rows vocab"], texts: Sequence[Sequence[int]]
    ) -> Float[Tensor, "rows vocab"]:
        """Return the log-probabilities of the next token after each text: of the model, after
        penalties and bans, before temperature and warps. Banned tokens have -inf."""
        rows = [self.sampler.process(row, text) for row, text in zip(logits, texts, strict=True)]
        stacked = torch.stack([row if row.dtype == torch.float64 else row.float() for row in rows])
        return torch.log_softmax(stacked, -1)

    # -- texts ------------------------------------------------------------------------------

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens, without special ones; empty without a tokenizer."""
        return "" if self.codec is None else self.codec.decode(list(tokens))

    def ids(self, text: str) -> tuple[int, ...]:
        """Encode a part of a text, without opening tokens. Raises `OptionError` without a
        tokenizer."""
        return plain_tokens(self.need_codec("a text"), text)

    @property
    def prompt_text(self) -> str:
        """The text of the prompt."""
        if self._prompt_text is None:
            self._prompt_text = self.text(self.request.prompt.token_ids)
        return self._prompt_text

    def need_codec(self, what: str) -> TextCodec:
        """Return the tokenizer. Raises `OptionError` if there is none."""
        if self.codec is None:
            raise OptionError(f"{what} needs a tokenizer", hint="Load one with the model")
        return self.codec

    def score(self, texts: Sequence[Sequence[int]]) -> list[float]:
        """Judge texts, given as tokens.

        Raises:
            OptionError: there is no scorer, or no tokenizer.
            ScorerError: the scorer failed.
            SearchStoppedError: a limit is reached.
        """
        if self.scorer is None:
            raise OptionError(
                "this strategy needs a scorer",
                hint="Give scorer=..., a function of a text to a number, or --scorer NAME",
            )
        return self.judged_by(self.scorer, texts)

    def judged_by(self, scorer: Scorer, texts: Sequence[Sequence[int]]) -> list[float]:
        """Judge texts with a scorer of the strategy's own; see `score`."""
        self.need_codec("a scorer")
        self.account.check()
        self.account.judge(len(texts))
        found: list[float] = []
        for first in range(0, len(texts), _JUDGED):
            if first:
                self.account.check()
            part = [self.text(one) for one in texts[first : first + _JUDGED]]
            found += checked_scores(scorer, self.prompt_text, part)
        return found

    def candidate(
        self,
        tokens: Sequence[int],
        score: float,
        *,
        logprob: float | None = None,
        finish: str | None = None,
        **about: JsonValue,
    ) -> Candidate:
        """Return a result.

        Args:
            tokens: its tokens.
            score: what candidates are ordered by.
            logprob: its log-probability under the model.
            finish: why it ended; None: `stop` after an end token, else `length`.
            about: more about it.
        """
        ended = bool(tokens) and tokens[-1] in self.end_ids
        return Candidate(
            token_ids=tuple(int(token) for token in tokens),
            score=float(score),
            logprob=logprob,
            finish_reason=finish or ("stop" if ended else "length"),
            text=self.text(tokens),
            about=about,
        )
