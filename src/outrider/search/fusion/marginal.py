"""The probability of bytes under a language model: the tokens of the tokenizer, and all tokens that
go on beyond the last byte.

For bytes `s` with the tokens `t_1 .. t_n`, it is the probability of these tokens, plus, for each
place i, the probability of the tokens before i times that of all tokens that begin with the bytes
of `t_i .. t_n` and have more. It lies between the probability of the tokens alone and the exact
probability, which also counts all other ways to cut the bytes into tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from outrider.core.types import Prompt
from outrider.search.account import Account
from outrider.search.fusion.model import ByteModel
from outrider.search.tree import Node, TokenTree


@dataclass(frozen=True, slots=True)
class Warp:
    """How the model's distribution is changed before bytes are scored.

    Attributes:
        temperature: divides the logits.
        penalty: divides positive and multiplies negative logits of tokens that occur among the last
            tokens; 1: none.
        window: how many tokens are the last ones.
    """

    temperature: float = 1.0
    penalty: float = 1.0
    window: int = 50

    def __call__(
        self, logits: Float[Tensor, " vocab"], before: Sequence[int]
    ) -> Float[Tensor, " vocab"]:
        """Return the log-probabilities of the token after `before`, on the CPU."""
        row = logits if logits.dtype == torch.float64 else logits.float()
        row = row / self.temperature
        last = before[-self.window :] if self.window else ()
        if self.penalty != 1.0 and last:
            ids = torch.tensor(sorted(set(last)), device=row.device)
            own = row[ids]
            row[ids] = torch.where(own > 0, own / self.penalty, own * self.penalty)
        return torch.log_softmax(row, -1).cpu()


@dataclass(frozen=True, slots=True)
class Scored:
    """Bytes under a model.

    Attributes:
        logprob: their log-probability.
        length: tokens of the largest part of it.
    """

    logprob: float
    length: int

    @property
    def mean(self) -> float:
        """The log-probability of a token; 0 for no bytes."""
        return self.logprob / self.length if self.length else 0.0


@dataclass(slots=True)
class _State:
    """A beginning of a text, as tokens that the model has read.

    Attributes:
        node: its last token.
        logprob: the sum of its log-probabilities.
        row: the log-probabilities of the token after it.
        used: whether a text has needed it since the last `Marginal.keep`.
    """

    node: Node
    logprob: float
    row: Float[Tensor, " vocab"]
    used: bool = True


@dataclass(slots=True)
class Marginal:
    """Scores bytes that begin a text. Beginnings are kept as tokens, so that a text that goes on
    reads its new tokens only; all texts of a call are read in one forward.

    Attributes:
        model: the model, with the bytes of its tokens.
        account: counts forwards and rows.
        warp: changes its distribution.
        context: text that it reads before the bytes.
        rows: rows that were read, for reports.
    """

    model: ByteModel
    account: Account
    warp: Warp = field(default_factory=Warp)
    context: str = ""
    rows: int = 0
    _tree: TokenTree | None = None
    _before: tuple[int, ...] = ()
    _states: dict[tuple[int, ...], _State] = field(default_factory=dict[tuple[int, ...], _State])

    def score(self, texts: Sequence[bytes]) -> list[Scored]:
        """Return the log-probability of each text: of all texts that begin with these bytes.

        Raises:
            SearchStoppedError: a limit is reached.
            ContextError: a text does not fit into the window of the model.
        """
        cut = [self.model.vocabulary.encode(text) for text in texts]
        if any(texts):
            self._read([tokens if rest else tokens[:-1] for tokens, rest in cut])
        return [self._scored(tokens, rest) for tokens, rest in cut]

    def keep(self) -> None:
        """Drop the beginnings that no text has needed since the last call."""
        if self._tree is None:
            return
        self._states = {key: one for key, one in self._states.items() if one.used or not key}
        self._tree.keep([one.node for one in self._states.values()])
        for one in self._states.values():
            one.used = False

    def __len__(self) -> int:
        """How many beginnings are kept."""
        return len(self._states)

    def _read(self, beginnings: Sequence[tuple[int, ...]]) -> None:
        """Let all prefixes of these tokens have a state."""
        tree = self._opened()
        missing: dict[tuple[int, ...], int] = {}
        steps: list[tuple[Node | int, int]] = []
        for tokens in beginnings:
            known = next(n for n in range(len(tokens), -1, -1) if tokens[:n] in self._states)
            for count in range(known + 1, len(tokens) + 1):
                key, before = tokens[:count], tokens[: count - 1]
                if key in missing:
                    continue
                parent = self._states[before].node if before in self._states else missing[before]
                missing[key] = len(steps)
                steps.append((parent, key[-1]))
        if not steps:
            return
        nodes, logits = tree.extend(steps)
        self.rows += len(steps)
        for key, node, row in zip(missing, nodes, logits, strict=True):
            before = self._states[key[:-1]]
            total = before.logprob + float(before.row[key[-1]])
            self._states[key] = _State(node, total, self._warped(row, key))

    def _opened(self) -> TokenTree:
        if self._tree is None:
            model, vocabulary = self.model.model, self.model.vocabulary
            self._before = (*self.model.opening, *vocabulary.encode(self.context.encode())[0])
            [cache] = model.start([Prompt(token_ids=self._before)])
            self._tree = TokenTree(model, cache, self.account)
            row = self._warped(self._tree.first(), ())
            self._states[()] = _State(self._tree.root, 0.0, row)
        return self._tree

    def _warped(
        self, logits: Float[Tensor, " vocab"], tokens: tuple[int, ...]
    ) -> Float[Tensor, " vocab"]:
        return self.warp(logits, (*self._before, *tokens))

    def _scored(self, tokens: tuple[int, ...], rest: bytes) -> Scored:
        """Return the score of bytes that were cut into these tokens and a rest without any."""
        if not tokens and not rest:
            return Scored(0.0, 0)
        for count in range(len(tokens)):
            self._states[tokens[:count]].used = True
        terms: list[tuple[float, int]] = []
        if not rest:
            before = self._states[tokens[:-1]]
            terms.append((before.logprob + float(before.row[tokens[-1]]), len(tokens)))
        suffix, place = rest, len(tokens)
        if rest:
            terms += self._longer(tokens, rest)
        while place > 0:
            place -= 1
            suffix = self.model.vocabulary.bytes_of(tokens[place]) + suffix
            if len(suffix) >= self.model.vocabulary.longest:
                break
            terms += self._longer(tokens[:place], suffix)
        if not terms:
            return Scored(-math.inf, max(len(tokens), 1))
        values = torch.tensor([value for value, _ in terms], dtype=torch.float64)
        return Scored(float(torch.logsumexp(values, 0)), max(terms)[1])

    def _longer(self, before: tuple[int, ...], suffix: bytes) -> list[tuple[float, int]]:
        """Return the log-probability of `before` and any token that begins with `suffix` and has
        more bytes, with the number of tokens; nothing if there is no such token."""
        ids = self.model.vocabulary.longer(suffix)
        if not len(ids):
            return []
        state = self._states[before]
        state.used = True
        own = state.row[torch.from_numpy(ids)].double()
        return [(state.logprob + float(torch.logsumexp(own, 0)), len(before) + 1)]
