"""Conformance tests of runners: every way of reading a text gives the rows of one plain forward."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from outrider.core.tree import path_to
from outrider.core.types import NO_IDS, IntArray, Prompt, as_ids
from outrider.protocols import CAPABILITIES, Cache, ChainRequest, LanguageModel, ModelInfo, Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.testing.errors import require

_PARENTS = as_ids([-1, -1, 0, 0, 1, 2, 2, -1, 5, 4])
"""A tree whose paths are not contiguous."""


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """The results of a check of a runner.

    Attributes:
        difference: the largest difference between two computations of the same row.
        capabilities: the capabilities that the model has.
    """

    difference: float
    capabilities: tuple[str, ...]


def check_runner(model: LanguageModel, *, tolerance: float = 1e-4, seed: int = 0) -> RunnerReport:
    """Check that a model computes the same rows for a text in every way of reading it.

    Rows of chains, of trees, of a ragged batch and after several pending tokens equal the rows of
    one plain forward over their path. The same holds after a commit that follows a path of a tree,
    leaves it, or rejects all of it, after `truncate`, and in both copies after a `fork`. Caches
    report their text. Every capability is declared; a chain that the model generates itself equals
    the one that its sampler chooses row by row; watched hidden states do not change the logits.

    Args:
        model: with a window of at least 48 tokens.
        tolerance: largest difference of two logits.
        seed: of the token ids that are read.

    Returns:
        The largest difference, and the capabilities.

    Raises:
        ConformanceError: the first violated point, in one line.
    """
    check = _Check(model, tolerance, np.random.default_rng(seed))
    check.declarations()
    check.chain()
    check.tree()
    check.batch()
    check.commits()
    check.cuts_and_forks()
    check.written_chain()
    check.hidden_states()
    able = [name for name in CAPABILITIES if getattr(model, name) is not None]
    return RunnerReport(check.worst, tuple(able))


class _Check:
    """Runs the checks of one model, and stores the largest difference so far."""

    def __init__(self, model: LanguageModel, tolerance: float, rng: np.random.Generator) -> None:
        self.model, self.tolerance, self.rng = model, tolerance, rng
        self.worst = 0.0

    def declarations(self) -> None:
        """The model info and all capabilities are declared."""
        info = self.model.info
        require(isinstance(info, ModelInfo), f"`info` is {info!r:.40}, no ModelInfo")
        missing = [f.name for f in fields(ModelInfo) if not hasattr(info, f.name)]
        require(not missing, f"`info` lacks {missing[:1]}")
        require(info.context_length >= 48, f"the window has {info.context_length} tokens, not 48")
        for name in CAPABILITIES:
            require(hasattr(self.model, name), f"the capability `{name}` is not declared")
        require(bool(info.fingerprint), "the fingerprint is empty")
        require(isinstance(self.model, LanguageModel), "it is no LanguageModel")

    def chain(self) -> None:
        """A text read in several parts, and token by token."""
        text = self._ids(20)
        whole = self._plain(text)
        cache = self._begin(text[:8])
        require(tuple(cache.text) == tuple(text[:8]), "a cache does not tell its text")
        first = self._read(cache, text[8:12])
        self._same(first, whole[7:12], "a chain")
        rows = self._rows(cache, as_ids(text[12:]), None, np.arange(4, 12))
        self._same(rows, whole[12:], "a chain in two forwards")
        slow = self._begin(text[:1])
        seen = [self._next(slow)]
        for token in text[1:]:
            slow.commit([token])
            seen.append(self._next(slow))
        self._same(torch.stack(seen), whole, "one token at a time")

    def tree(self) -> None:
        """A tree after the text, and after several pending tokens."""
        text, tokens = self._ids(9), as_ids(self._ids(len(_PARENTS)))
        expected = self._of_nodes(text, tokens)
        self._same(self._tree(self._begin(text), tokens), expected, "a tree")
        cache = self._begin(text[:6])
        cache.commit(as_ids(text[6:]))
        self._same(self._tree(cache, tokens), expected, "a tree behind pending tokens")

    def batch(self) -> None:
        """One batch of a tree, a chain, a single pending token, and a segment with no requested
        row."""
        texts = [self._ids(n) for n in (7, 13, 1, 5)]
        tokens, chain = as_ids(self._ids(len(_PARENTS))), self._ids(3)
        caches = self.model.start([Prompt(token_ids=tuple(text)) for text in texts])
        segments = [
            Segment(caches[0], tokens, _PARENTS),
            Segment(caches[1], as_ids(chain)),
            Segment(caches[2], NO_IDS),
            Segment(caches[3], as_ids(chain)),
        ]
        want = [np.arange(-1, len(tokens)), as_ids([2, 0]), as_ids([-1]), NO_IDS]
        rows = [found.logits for found in self.model.forward(segments, want)]
        require([len(r) for r in rows] == [len(w) for w in want], "rows are not those asked for")
        self._same(rows[0], self._of_nodes(texts[0], tokens), "a tree in a batch")
        self._same(rows[1], self._plain([*texts[1], *chain])[[-1, -3]], "a chain in a batch")
        self._same(rows[2], self._plain(texts[2]), "a pending token in a batch")
        later = self._rows(caches[3], as_ids(chain[:1]), None, as_ids([3]))
        self._same(later, self._plain([*texts[3], *chain, chain[0]])[-1:], "unasked rows")

    def commits(self) -> None:
        """After every kind of commit the cache equals that of a fresh forward."""
        for path, more in (([0, 2, 5, 8], [9]), ([0, 2], []), ([0], [9, 8]), ([], [9])):
            text, tokens = self._ids(8), as_ids(self._ids(len(_PARENTS)))
            cache = self._begin(text)
            self._tree(cache, tokens)
            emitted = [int(tokens[node]) for node in path] + [i % self._vocab for i in more]
            cache.commit(as_ids(emitted))
            now = [*text, *emitted]
            require(tuple(cache.text) == tuple(now), "after a commit a cache tells another text")
            self._same(self._tree(cache, tokens), self._of_nodes(now, tokens), "after a commit")

    def cuts_and_forks(self) -> None:
        """`truncate` drops the end; the two copies after a fork are independent."""
        text = self._ids(14)
        cache = self._begin(text)
        self._next(cache)
        cache.commit([1 % self._vocab])
        cache.truncate(9)
        self._same(self._next(cache)[None], self._plain(text[:9])[-1:], "after truncate")
        twin = cache.fork()
        one, other = self._ids(4), self._ids(5)
        for half, tokens in ((cache, one), (twin, other)):
            self._rows(half, as_ids(tokens), None, NO_IDS)
            half.commit(as_ids(tokens))
        for half, tokens in ((cache, one), (twin, other)):
            self._same(self._next(half)[None], self._plain([*text[:9], *tokens])[-1:], "after fork")

    def written_chain(self) -> None:
        """A chain that the model generates in one call."""
        decoder = self.model.chain_decoder
        if decoder is None:
            return
        text = self._ids(6)
        for temperature in (0.0, 0.8):
            sampler = Sampler(SamplingParams.of(temperature=temperature, seed=3))
            asked = ChainRequest(
                segment=Segment(self._begin(text), NO_IDS), sampler=sampler, generated=[], depth=6
            )
            written = decoder.write_chains([asked])
            if written is None:
                continue
            by_hand: list[int] = []
            cache = self._begin(text)
            for _ in range(len(written[0])):
                token = sampler.choose(self._next(cache), by_hand)
                by_hand.append(token)
                cache.commit([token])
            require(
                written[0].tolist() == by_hand,
                f"write_chains wrote {written[0].tolist()}, and the sampler chooses {by_hand}",
            )

    def hidden_states(self) -> None:
        """Watched states have the right shape, and do not change the logits."""
        shows = self.model.hidden_states
        if shows is None:
            return
        text, tokens = self._ids(9), as_ids(self._ids(len(_PARENTS)))
        plain = self._tree(self._begin(text), tokens)
        cache = self._begin(text)
        layers = [shows.num_layers, 0]
        shows.watch(cache, layers)
        segment = Segment(cache, tokens, _PARENTS)
        [rows] = self.model.forward([segment], [np.arange(-1, len(tokens))])
        self._same(rows.logits, plain, "with watched hidden states")
        require(rows.states is not None, "hidden states are watched, and none are returned")
        assert rows.states is not None
        shape = (len(layers), len(tokens) + 1, shows.width)
        require(
            tuple(rows.states.shape) == shape,
            f"hidden states have the shape {tuple(rows.states.shape)}, not {shape}",
        )

    # -- helpers --------------------------------------------------------------------------------

    @property
    def _vocab(self) -> int:
        return min(self.model.info.vocab_size, 1000)

    def _ids(self, count: int) -> list[int]:
        return [int(i) for i in self.rng.integers(0, self._vocab, count)]

    def _begin(self, text: Sequence[int]) -> Cache:
        [cache] = self.model.start([Prompt(token_ids=tuple(text))])
        return cache

    def _rows(
        self, cache: Cache, tokens: IntArray, parents: IntArray | None, want: IntArray
    ) -> Tensor:
        [rows] = self.model.forward([Segment(cache, tokens, parents)], [want])
        return rows.logits

    def _read(self, cache: Cache, tokens: Sequence[int]) -> Tensor:
        """Return the row after the text and the rows of a chain."""
        return self._rows(cache, as_ids(tokens), None, np.arange(-1, len(tokens)))

    def _next(self, cache: Cache) -> Tensor:
        return self._rows(cache, NO_IDS, None, as_ids([-1]))[0]

    def _tree(self, cache: Cache, tokens: IntArray) -> Tensor:
        return self._rows(cache, tokens, _PARENTS, np.arange(-1, len(tokens)))

    def _plain(self, text: Sequence[int]) -> Tensor:
        """Return `[len(text), vocab]`: all rows of one plain forward."""
        return self._read(self._begin(text[:1]), text[1:])

    def _of_nodes(self, text: Sequence[int], tokens: IntArray) -> Tensor:
        """Return the row after the text and the rows of the nodes, each computed by a plain forward
        over its path.
        """
        rows = [self._plain(text)[-1]]
        for node in range(len(tokens)):
            path = [int(tokens[one]) for one in path_to(_PARENTS, node)]
            rows.append(self._plain([*text, *path])[-1])
        return torch.stack(rows)

    def _same(self, ours: Tensor, plain: Tensor, what: str) -> None:
        require(ours.shape == plain.shape, f"{what}: {tuple(ours.shape)} rows and logits")
        difference = float((ours.double() - plain.double()).abs().max())
        self.worst = max(self.worst, difference)
        require(
            difference <= self.tolerance,
            f"{what}: a logit differs by {difference:.3g} from one plain reading",
        )
