"""The exact probability of bytes by genlm-bytes, which sums over all ways to cut them.

Install it into another folder (`pip install --target FOLDER genlm-bytes`, with the versions of
constraints.txt), and give that folder in `PYTHONPATH`.
"""

import asyncio
import itertools
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from outrider.models.tabular import TabularModel
from outrider.search.account import Account
from outrider.search.fusion.marginal import Marginal, Warp
from outrider.search.fusion.model import ByteModel
from tests.search.fusion.direct import exact, probabilities, standard, toy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the other library
]

TEXTS = [bytes(text) for n in (1, 2, 5) for text in itertools.product(b"ab", repeat=n)]
CASES = {
    "several bytes": (b"", b"a", b"b", b"ab", b"ba", b"aab", b"abba", b"bb"),
    "single bytes": (b"", b"a", b"b"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_below_the_exact_probability_and_equal_for_single_bytes(case: str) -> None:
    byte_lm = pytest.importorskip("genlm.bytes")
    model = toy(4, CASES[case])
    assert isinstance(model.model, TabularModel)
    theirs = _Theirs(model, pytest.importorskip("genlm.backend.tokenization.token").Token)

    async def prefix(text: bytes) -> float:
        params = byte_lm.BeamParams(K=100_000, heal=False)
        state: Any = await byte_lm.ByteBeamState.initial(theirs, params)
        for byte in text:
            state = await (state << byte)
        return float(state.logZ)

    found = Marginal(model, Account(), Warp()).score(TEXTS)
    for text, own in zip(TEXTS, found, strict=True):
        oracle = math.exp(asyncio.run(prefix(text)))
        assert oracle == pytest.approx(exact(model, text), rel=1e-5)
        assert standard(model, text) - 1e-9 <= math.exp(own.logprob) <= oracle + 1e-5
        if case == "single bytes":
            assert math.exp(own.logprob) == pytest.approx(oracle, rel=1e-5)


class _Theirs:
    """The toy model as genlm-bytes reads models."""

    def __init__(self, model: ByteModel, token: Any) -> None:
        self.model = model
        count = len(model.vocabulary)
        self.tokenizer = SimpleNamespace(bos_token_id=model.opening[0])
        self.byte_vocab = [token(i, model.vocabulary.bytes_of(i) or b"\0") for i in range(count)]

    async def next_token_logprobs(self, token_ids: list[int], **_: Any) -> torch.Tensor:
        """Return the log-probabilities of the next token."""
        return torch.tensor(probabilities(self.model, token_ids[1:], Warp())).log()

    async def batch_next_token_logprobs(self, lists: list[list[int]], **_: Any) -> torch.Tensor:
        """Return them for several texts."""
        return torch.stack([await self.next_token_logprobs(ids) for ids in lists])
