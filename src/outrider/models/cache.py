"""The bookkeeping of every cache: which rows it holds, which tokens are pending, what a commit
keeps. Runners add the tensors.

Three numbers stay apart: a row's *position* (its place in the text, for rotary embeddings), its
*slot* (where its keys and values lie in memory) and the committed *length*.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
from torch import Tensor

from outrider.errors import ContextError
from outrider.protocols import LanguageModel, Segment
from outrider.tree import ancestor_mask, chain_parents, check_parents, depths, is_chain
from outrider.types import NO_IDS, BoolArray, Draft, IntArray, Prompt, as_ids

C = TypeVar("C", bound="CacheBook")

PREFILL_CHUNK = 512
"""Prompt tokens of one request that one forward reads."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What one forward must do for one cache.

    Attributes:
        tokens: `[n]` ids to read: unread pending ones, then the segment's.
        positions: `[n]` their places in the text.
        start: slot of the first of them; the others follow.
        base: slots before `base` are visible to every speculative row.
        tree: `[n, start + n - base]` which slots from `base` on each row sees, or None when every
            row sees exactly the slots up to its own (plain causal attention).
        take: rows of the feed to return, in the order wanted.
        embeddings: `[n, hidden]` to read instead of the ids, or None.
    """

    tokens: IntArray
    positions: IntArray
    start: int
    base: int
    tree: BoolArray | None
    take: IntArray
    embeddings: Tensor | None = None

    @property
    def end(self) -> int:
        """First slot after the feed."""
        return self.start + len(self.tokens)


class CacheBook:
    """A `Cache` without tensors. Subclasses move and copy storage when told to.

    Slots: committed rows lie at `0 .. length`, fed pending rows follow up to `len(text)`, then
    come the speculative rows in the order they were fed.

    `watched`: forwards return `Rows.streams`. `borrower`: the mark of the `Borrowed` cache whose
    rows lie behind the committed ones; None once this cache has moved on.
    """

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length
        self._text: list[int] = []
        self._length = 0
        self._fed = False
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._is_chain = True
        self.embeddings: Tensor | None = None
        self.reusable = True
        self.watched = False
        self.borrower: object | None = None

    # -- what the protocol shows ------------------------------------------------------------

    @property
    def text(self) -> Sequence[int]:
        """Prompt and committed output."""
        return self._text

    @property
    def pending(self) -> Sequence[int]:
        """Tokens of the text without a committed row."""
        return self._text[self._length :]

    @property
    def length(self) -> int:
        """Committed rows."""
        return self._length

    @property
    def fed(self) -> bool:
        """Whether `pending` has been read since the last commit."""
        return self._fed

    @property
    def num_speculative(self) -> int:
        """Speculative rows since the last commit."""
        return len(self._tokens)

    @property
    def room(self) -> int:
        """Tokens that may still follow the text."""
        return self.context_length - len(self._text)

    @property
    def horizon(self) -> int | None:
        """This cache never changes its model."""
        return None

    def spell(self, tokens: Sequence[int] | IntArray) -> list[int]:
        """Rows that spell the longest proper prefix of `tokens`."""
        path: list[int] = []
        node = -1
        for token in tokens[:-1]:
            node = self._row_of(node, int(token))
            if node < 0:
                break
            path.append(node)
        return path

    def _row_of(self, parent: int, token: int) -> int:
        for row in range(parent + 1, len(self._tokens)):
            if self._parents[row] == parent and self._tokens[row] == token:
                return row
        return -1

    # -- what the round does ----------------------------------------------------------------

    def feed(self, segment: Segment, want: IntArray) -> Feed:
        """Plan a forward over `segment` and note its rows as read.

        Raises `ContextError`, with nothing noted, when a row would lie outside the window.
        """
        if segment.parents is None and self._is_chain:
            return self._feed_chain(segment, want)
        text_end, old = len(self._text), len(self._tokens)
        unread = [] if self._fed else self._text[self._length :]
        new = [int(t) for t in segment.tokens]
        parents = segment.parents
        if parents is None:
            parents = chain_parents(len(new)) + old
            parents[:1] = old - 1
        check_parents(parents, first=old)
        tree = as_ids([*self._parents, *parents.tolist()])
        positions = np.concatenate(
            (np.arange(text_end - len(unread), text_end), depths(tree)[old:] + text_end)
        )
        if len(positions):
            self._check_position(int(positions.max()))
        self._is_chain = self._is_chain and is_chain(tree)
        plan = Feed(
            tokens=as_ids(unread + new),
            positions=positions,
            start=text_end + old - len(unread),
            base=text_end,
            tree=None if self._is_chain else _visible(tree, len(unread), old),
            take=self._take(want, len(unread), old, len(new)),
            embeddings=self.embeddings if unread else None,
        )
        self._tokens += new
        self._parents = tree.tolist()
        self._fed = True
        return plan

    def _feed_chain(self, segment: Segment, want: IntArray) -> Feed:
        """The same for the common case, in which rows, slots and positions all count together."""
        text_end, old, new = len(self._text), len(self._tokens), segment.tokens
        unread = [] if self._fed else self._text[self._length :]
        start = text_end + old - len(unread)
        end = text_end + old + len(new)
        if end > start:
            self._check_position(end - 1)
        plan = Feed(
            tokens=np.concatenate((unread, new)) if unread else new,
            positions=np.arange(start, end),
            start=start,
            base=text_end,
            tree=None,
            take=self._take(want, len(unread), old, len(new)),
            embeddings=self.embeddings if unread else None,
        )
        self._tokens += new.tolist()
        self._parents += range(old - 1, old + len(new) - 1)
        self._fed = True
        return plan

    def _check_position(self, last: int) -> None:
        if last >= self.context_length:
            raise ContextError(f"position {last} is outside the context window")

    @staticmethod
    def _take(want: IntArray, unread: int, old: int, new: int) -> IntArray:
        if not len(want):
            return want
        take = want + unread if not old else np.where(want < 0, unread - 1, unread + want - old)
        if take.min() < 0 or take.max() >= unread + new or (want.min() < 0 and not unread):
            raise ValueError(f"rows {want.tolist()} are not read by this forward")
        return take

    def commit(self, tokens: Sequence[int] | IntArray) -> None:
        """Append emitted tokens; keep the rows that spell their longest proper prefix."""
        kept = self.spell(tokens)
        text_end = len(self._text)
        self._text.extend(int(t) for t in tokens)
        if self._fed:
            if kept and kept[-1] != len(kept) - 1:  # rows ascend: else they lie where they should
                self._move([text_end + row for row in kept], text_end)
            self._length = min(text_end + len(kept), len(self._text) - 1)
            self.embeddings = None
        self._forget_round()

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens of the text, and the round."""
        if not 1 <= length <= len(self._text):
            raise ValueError(f"length must be from 1 to {len(self._text)}, got {length}")
        del self._text[length:]
        self._length = min(self._length, length - 1)
        self._forget_round()

    def _forget_round(self) -> None:
        self._fed = False
        self._tokens, self._parents, self._is_chain = [], [], True
        self.borrower = None

    # -- what a prefill does ----------------------------------------------------------------

    def extend(self, tokens: Sequence[int], embeddings: Tensor | None = None) -> None:
        """Append prompt tokens as pending."""
        self._text.extend(tokens)
        self.embeddings = embeddings
        self.reusable = self.reusable and embeddings is None

    def settle(self) -> None:
        """Count the pending tokens just read as committed, all of them: more prompt follows."""
        self._length = len(self._text)
        self.embeddings = None
        self._forget_round()

    def fork(self: C) -> C:
        """An independent copy that shares storage until one side writes."""
        twin = cast(C, self._share())
        twin._text = list(self._text)
        twin._length, twin._fed = self._length, self._fed
        twin._tokens, twin._parents = list(self._tokens), list(self._parents)
        twin._is_chain = self._is_chain
        twin.embeddings, twin.reusable = self.embeddings, self.reusable
        return twin

    # -- storage ----------------------------------------------------------------------------

    @abstractmethod
    def _move(self, slots: list[int], start: int) -> None:
        """Copy the rows at `slots` (ascending) to `start`, `start + 1`, ..."""

    @abstractmethod
    def _share(self) -> "CacheBook":
        """A cache of the same kind that shares this one's storage until either writes."""


def _visible(tree: IntArray, unread: int, old: int) -> BoolArray:
    """Which speculative slots each fed row sees: pending rows none, the others their ancestors."""
    rows = ancestor_mask(tree)[old:]
    return np.concatenate((np.zeros((unread, len(tree)), dtype=np.bool_), rows))


def attach(cache: CacheBook, tail: IntArray, draft: Draft) -> tuple[Segment, IntArray]:
    """The segment that verifies `draft` after `tail`, and the rows to ask for.

    The part of the tail without rows is fed first. The rows wanted are the one that ends text and
    tail, then one for each node.
    """
    if not len(tail):
        if cache.fed:
            cache.commit(())
        if not len(draft) or is_chain(draft.parents):
            return Segment(cache, draft.tokens), np.arange(-1, len(draft))
    spelled = cache.spell(tail)
    rest = tail[len(spelled) :]
    first = cache.num_speculative
    hook = spelled[-1] if spelled else -1
    end = first + len(rest) - 1 if len(rest) else hook
    nodes = np.where(draft.parents < 0, end, draft.parents + first + len(rest))
    segment = Segment(
        cache,
        np.concatenate((rest, draft.tokens)),
        np.concatenate((chain_parents(len(rest), hook) + _shift(rest, first), nodes)),
    )
    rows = first + len(rest) + np.arange(len(draft))
    return segment, np.concatenate((as_ids([end]), rows))


def _shift(rest: IntArray, first: int) -> IntArray:
    """Chain parents count from the segment's own start; all but the first move up."""
    shift = np.full(len(rest), first, dtype=np.int64)
    shift[:1] = 0
    return shift


def start_caches(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    reuse: Sequence[C | None] | None,
    make: Callable[[], C],
) -> list[C]:
    """`LanguageModel.start` for caches built on `CacheBook`: check, share, reuse, prefill."""
    for prompt in prompts:
        check_prompt(model, prompt)
    firsts: dict[int, C] = {}
    caches: list[C | None] = []
    for i, prompt in enumerate(prompts):
        if id(prompt) in firsts:
            caches.append(None)
            continue
        old = reuse[i] if reuse else None
        cache = make() if old is None else _cut_to_common(old, prompt) or make()
        firsts[id(prompt)] = cache
        caches.append(cache)
    own = [(p, c) for p, c in zip(prompts, caches, strict=True) if c is not None]
    _prefill(model, [p for p, _ in own], [c for _, c in own])
    return [firsts[id(p)].fork() if c is None else c for p, c in zip(prompts, caches, strict=True)]


def check_prompt(model: LanguageModel, prompt: Prompt) -> None:
    """Raise `ContextError` for a prompt that is empty, leaves no room to write, or has ids that
    the model does not know."""
    if not len(prompt):
        raise ContextError("the prompt is empty", hint="Give at least one token, such as BOS")
    low, high = min(prompt.token_ids), max(prompt.token_ids)
    if low < 0 or high >= model.vocab_size:
        raise ContextError(
            f"the prompt holds token {low if low < 0 else high}; model {model.name} knows ids "
            f"from 0 to {model.vocab_size - 1}",
            hint="Encode the prompt with this model's own tokenizer",
        )
    if prompt.embeddings is not None:
        _check_embeddings(model, prompt)
    over = len(prompt) + 1 - model.context_length
    if over > 0:
        raise ContextError(
            f"the prompt has {len(prompt)} tokens; model {model.name} reads "
            f"{model.context_length} and needs one for its answer",
            hint=f"Shorten the prompt by {over} token{'s' if over > 1 else ''}",
        )


def _check_embeddings(model: LanguageModel, prompt: Prompt) -> None:
    embed = getattr(model, "embed", None)
    if embed is None:
        raise ContextError(f"model {model.name} reads token ids only, not embeddings")
    assert prompt.embeddings is not None
    given = tuple(prompt.embeddings.shape)
    expected = (len(prompt), embed(prompt.token_ids[:1]).shape[-1])
    if given != expected:
        raise ContextError(
            f"the prompt's embeddings have shape {given}; model {model.name} expects {expected}",
            hint="Give one row for each token id, as wide as the model",
        )


def _cut_to_common(cache: C, prompt: Prompt) -> C | None:
    """`cache` cut to what it shares with `prompt`, or None when that is nothing."""
    if prompt.embeddings is not None or not cache.reusable:
        return None
    shared = 0
    for ours, theirs in zip(cache.text, prompt.token_ids, strict=False):
        if ours != theirs:
            break
        shared += 1
    if not shared:
        return None
    cache.truncate(min(shared, cache.length + 1))
    return cache


def _prefill(model: LanguageModel, prompts: Sequence[Prompt], caches: Sequence[CacheBook]) -> None:
    """Read all but the last token of each prompt, a chunk of each at a time."""
    while True:
        segments: list[Segment] = []
        for prompt, cache in zip(prompts, caches, strict=True):
            done = cache.length
            end = min(done + PREFILL_CHUNK, len(prompt) - 1)
            missing = prompt.token_ids[len(cache.text) : end]
            if done < end:
                rows = prompt.embeddings
                cache.extend(missing, None if rows is None else rows[done:end])
                segments.append(Segment(cache, NO_IDS))
        if not segments:
            break
        model.forward(segments, [NO_IDS] * len(segments))
        for segment in segments:
            segment.cache.settle()
    for prompt, cache in zip(prompts, caches, strict=True):
        cache.extend(prompt.token_ids[len(cache.text) :])
