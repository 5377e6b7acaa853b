"""Suffix automata over token ids: they find the longest earlier occurrence of the end of a text.

A state represents substrings that end at the same positions. `lengths` contains the length of the
longest of them, and `links` points to the state of the longest suffix that ends at more positions.
The automaton is built online with at most two states per token (Blumer et al. 1985). SAM-Decoding
(arXiv 2411.10666) uses it for drafting; its `next`, `link`, `length` and `first_end` are the fields
here.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

ROOT = 0
_STATE_BYTES = 96
_EDGE_BYTES = 176


class SuffixStates(ABC):
    """The base of growing and frozen automata: following tokens, and finding an occurrence.

    Attributes:
        links: of each state, the state of its next shorter suffixes; -1 for the root.
        lengths: of each state, the length of its longest substring.
        firsts: of each state, the position after its first occurrence in the text.
    """

    links: Any
    lengths: Any
    firsts: Any

    @property
    def num_states(self) -> int:
        """Number of states, including the root."""
        return len(self.lengths)

    @abstractmethod
    def target(self, state: int, token: int) -> int:
        """Return the state that `token` leads to from `state`; -1 if there is no such edge."""

    def walk(self, state: int, length: int, tokens: Sequence[int]) -> tuple[int, int]:
        """Return the longest known suffix after `tokens`, given the longest known suffix before
        them.

        The amortised cost per token is a constant number of steps.

        Returns:
            Its state and its length; the root and 0 if no suffix is known.
        """
        for token in tokens:
            to = self.target(state, token)
            while to < 0 and state != ROOT:
                state = self.links[state]
                length = self.lengths[state]
                to = self.target(state, token)
            if to >= 0:
                state, length = to, length + 1
        return state, length

    def occurrence(
        self, state: int, length: int, *, wanted: int, known: int, least: int = 1
    ) -> tuple[int, int]:
        """Return the occurrence of a match that should be copied.

        The first occurrence of the longest match is used, unless fewer than `wanted` of the `known`
        tokens follow it. In that case the links lead to shorter suffixes, which occur earlier. Two
        rules differ from the paper: a match that is at least as long as its continuation is a loop
        and is kept (the copy continues with itself); and if no suffix is followed by enough tokens,
        the longest match is kept as well.

        Args:
            state: the state of the match.
            length: its length.
            wanted: number of tokens to copy.
            known: number of tokens of the text, including those after the automaton's own.
            least: the length of the shortest acceptable suffix.

        Returns:
            The position after the occurrence, and the length of the match there.
        """
        first = place = self.firsts[state]
        if known - first <= length:
            return first, length
        at, matched = state, length
        while known - place < wanted:
            at = self.links[at]
            if at <= ROOT or self.lengths[at] < least:
                return first, length
            place, matched = self.firsts[at], self.lengths[at]
        return place, matched


class Automaton(SuffixStates):
    """Grows token by token, for one text or for several that start at the root."""

    def __init__(self) -> None:
        self.edges: list[dict[int, int]] = [{}]
        self.links: list[int] = [-1]
        self.lengths: list[int] = [0]
        self.firsts: list[int] = [0]
        self.num_edges = 0

    @property
    def nbytes(self) -> int:
        """Estimated bytes of memory: lists and a table for each state, an entry for each edge."""
        return _STATE_BYTES * len(self.lengths) + _EDGE_BYTES * self.num_edges

    def target(self, state: int, token: int) -> int:
        """Return the state that `token` leads to from `state`; -1 if there is no such edge."""
        return self.edges[state].get(token, -1)

    def grow(self, last: int, token: int, place: int) -> int:
        """Append `token` to the text whose state is `last`.

        Args:
            last: the state of the text so far; the root for an empty text.
            token: the next token.
            place: the index of the token after this one.

        Returns:
            The state of the text with the token.
        """
        edges, links = self.edges, self.links
        known = edges[last].get(token)
        if known is not None:  # another text already contains this substring
            return (
                known if self.lengths[known] == self.lengths[last] + 1 else self._split(last, token)
            )
        new = self._add({}, self.lengths[last] + 1, place)
        state = last
        while state >= 0 and token not in edges[state]:
            edges[state][token] = new
            self.num_edges += 1
            state = links[state]
        if state < 0:
            links[new] = ROOT
        elif self.lengths[edges[state][token]] == self.lengths[state] + 1:
            links[new] = edges[state][token]
        else:
            links[new] = self._split(state, token)
        return new

    def _split(self, state: int, token: int) -> int:
        """Split a target state: the shorter substrings, reached through `state`, get a state of
        their own."""
        edges, links = self.edges, self.links
        old = edges[state][token]
        new = self._add(dict(edges[old]), self.lengths[state] + 1, self.firsts[old])
        self.num_edges += len(edges[old])
        links[new], links[old] = links[old], new
        self._copied(old)
        while state >= 0 and edges[state].get(token) == old:
            edges[state][token] = new
            state = links[state]
        return new

    def _add(self, edges: dict[int, int], length: int, first: int) -> int:
        self.edges.append(edges)
        self.links.append(-1)
        self.lengths.append(length)
        self.firsts.append(first)
        return len(self.lengths) - 1

    def _copied(self, old: int) -> None:
        """Hook for counting subclasses: the newest state took over substrings from `old`."""


class TextAutomaton(Automaton):
    """The automaton of one growing text, and the match at its end.

    The match is the longest suffix of the text that occurred in it before. It is the target of the
    newest state's link, so the end of the text never matches itself.

    After `max_tokens` tokens the automaton does not grow. The end of the text is still matched with
    the known part and copied from it.

    Args:
        max_tokens: largest number of tokens that are learned; about 550 bytes each.

    Attributes:
        text: all tokens so far.
        state: the state of the match.
        length: the length of the match.
    """

    def __init__(self, max_tokens: int = 1 << 18) -> None:
        super().__init__()
        self.max_tokens = max_tokens
        self.text: list[int] = []
        self.state = ROOT
        self.length = 0
        self._last = ROOT

    @property
    def nbytes(self) -> int:
        """Estimated bytes of memory."""
        return super().nbytes + 40 * len(self.text)

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the text and update the match."""
        learned = max(self.max_tokens - len(self.text), 0)
        place = len(self.text)
        self.text.extend(tokens)
        last = self._last
        for token in tokens[:learned]:
            place += 1
            last = self.grow(last, token, place)
        if learned and len(tokens):
            self._last, self.state = last, self.links[last]
            self.length = self.lengths[self.state]
        if learned < len(tokens):
            self.state, self.length = self.walk(self.state, self.length, tokens[learned:])

    def match(self, tail: Sequence[int] = ()) -> tuple[int, int]:
        """Return the state and length of the longest known suffix of `text + tail`; the tail is not
        learned.
        """
        return self.walk(self.state, self.length, tail)
