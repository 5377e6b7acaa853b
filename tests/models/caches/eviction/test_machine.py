"""Any sequence of forwards, commits, cuts and copies, against texts read from their beginning."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from outrider.core.tree import depths, path_to
from outrider.core.types import NO_IDS, as_ids
from outrider.protocols import Segment
from tests.models.caches.eviction.setups import (
    NAMES,
    begin,
    feed_none,
    ids,
    kept,
    look,
    needs_kernels,
    read,
    under,
)

_TOKENS = st.lists(st.integers(0, 5), min_size=1, max_size=6)
_WHICH = st.integers(0, 2)
_MOST = 60


class Machine(RuleBasedStateMachine):
    """Up to three caches over one prompt, and the texts that they should hold."""

    name = ""
    fresh: dict[tuple[int, ...], tuple[torch.Tensor, list[list[int]]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.model = under(self.name, "float32")
        self.caches: list[Any] = []
        self.texts: list[list[int]] = []

    @initialize(count=st.integers(1, 14))
    def start(self, count: int) -> None:
        self.prompt = list(ids(count, 6))
        self.caches = [begin(self.model, self.prompt)]
        self.texts = [list(self.prompt)]

    def _pick(self, which: int) -> tuple[Any, list[int]]:
        place = which % len(self.caches)
        return self.caches[place], self.texts[place]

    @rule(which=_WHICH, tokens=_TOKENS)
    def commit(self, which: int, tokens: list[int]) -> None:
        own, text = self._pick(which)
        if len(text) < _MOST:
            own.commit(tokens)
            text += tokens

    @rule(which=_WHICH, tokens=_TOKENS)
    def read_in_parts(self, which: int, tokens: list[int]) -> None:
        own, text = self._pick(which)
        if len(text) < _MOST and not own.fed:
            feed_none(self.model, own)
            own.settle()
            own.commit(tokens)
            text += tokens

    @rule(which=_WHICH, seed=st.integers(0, 99), again=st.booleans())
    def draft(self, which: int, seed: int, again: bool) -> None:
        """A tree, or two after each other, of which a path and a token more are committed."""
        own, text = self._pick(which)
        if len(text) >= _MOST or own.fed:
            return
        rng, most = np.random.default_rng(seed), own.horizon
        limit = 4 if most is None else min(most - 1, 4)
        tokens, parents = [], []
        for _ in range(1 + again):
            new, own_parents = [], []
            for _ in range(int(rng.integers(0, 5)) if limit else 0):
                parent = int(rng.integers(-1, len(tokens) + len(new)))
                line = as_ids([*parents, *own_parents, parent])
                if depths(line)[-1] < limit:
                    new.append(int(rng.integers(0, 6)))
                    own_parents.append(parent)
            segment = Segment(own, as_ids(new), as_ids(own_parents))
            self.model.forward([segment], [NO_IDS])
            tokens, parents = tokens + new, parents + own_parents
        node = int(rng.integers(-1, len(tokens))) if tokens else -1
        path = [tokens[row] for row in path_to(as_ids(parents), node)] if node >= 0 else []
        emitted = [*path, int(rng.integers(0, 6))]
        own.commit(emitted)
        text += emitted

    @rule(which=_WHICH)
    def leave_a_round_open(self, which: int) -> None:
        own, _ = self._pick(which)
        if not own.fed and len(own.text) < _MOST:
            read(self.model, own)

    @rule(which=_WHICH, share=st.floats(0, 1))
    def truncate(self, which: int, share: float) -> None:
        own, text = self._pick(which)
        least = len(self.prompt) if self.name == "snapkv" else 1
        length = least + round(share * (len(text) - least))
        own.truncate(length)
        del text[length:]

    @rule(which=_WHICH)
    def fork(self, which: int) -> None:
        own, text = self._pick(which)
        if len(self.caches) < 3:
            self.caches.append(own.fork())
            self.texts.append(list(text))

    @rule(which=_WHICH)
    def compare(self, which: int) -> None:
        own, text = self._pick(which)
        assert list(own.text) == text and own.length < len(text)
        if own.fed:
            return
        found = look(self.model, own)
        expected, held = self._expected(tuple(text))
        assert torch.equal(found, expected)
        twin = own.fork()
        read(self.model, twin)
        twin.commit([0])
        assert kept(twin) == held

    def _expected(self, text: tuple[int, ...]) -> tuple[torch.Tensor, list[list[int]]]:
        key = (len(self.prompt), *text)
        if key not in self.fresh:
            first = len(self.prompt) if self.name == "snapkv" else 1
            own = begin(self.model, text[:first])
            for token in text[first:]:
                read(self.model, own)
                own.commit([token])
            found = read(self.model, own)[0]
            own.commit([0])
            self.fresh[key] = (found, kept(own))
        return self.fresh[key]

    def teardown(self) -> None:
        for which in range(len(self.caches)):
            self.compare(which)


@needs_kernels
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("rlkv", "actqkv")])
def test_any_sequence_of_changes(name: str) -> None:
    """`rlkv` keeps rows as `duo` does, and `actqkv` fetches blocks as `infllm` does."""
    machine = type(name, (Machine,), {"name": name, "fresh": {}})
    run_state_machine_as_test(machine, settings=settings(max_examples=12, stateful_step_count=14))
