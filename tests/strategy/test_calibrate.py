"""Calibrating: the verifier's own text, each model reading it once, and what comes of it."""

import math

import numpy as np
import pytest
import torch

from outrider.acceptance import DIVERGENCES, Fuzzy, divergence
from outrider.core.errors import ContextError, OptionError
from outrider.core.types import IntArray, Rows
from outrider.models.tabular import TabularModel
from outrider.protocols import Segment
from outrider.sampling import Sampler, SamplingParams
from outrider.strategy.calibrate import calibrate
from outrider.strategy.calibration import quantiles

VERIFIER = TabularModel.random(vocab_size=6, order=2, seed=1, name="large")
PROPOSER = TabularModel.random(
    vocab_size=6, order=2, seed=2, near=VERIFIER, distance=0.7, name="small"
)
PROMPTS = [(1, 2), (3,), (4, 4, 4), (5, 0), (2, 1, 0)]
PARAMS = SamplingParams(temperature=0.9, seed=3)


def texts(params: SamplingParams, length: int, end_ids: tuple[int, ...] = ()) -> list[list[int]]:
    """The verifier's own continuations, by the definition."""
    out = []
    for i, prompt in enumerate(PROMPTS):
        sampler = Sampler(params, prompt_ids=prompt, end_ids=end_ids, sample=i)
        text: list[int] = []
        while len(text) < length and not (text and text[-1] in sampler.end_ids):
            text.append(sampler.choose(VERIFIER.logits_after([*prompt, *text]), text))
        out.append(text)
    return out


def expected(name: str, written: list[list[int]], params: SamplingParams) -> torch.Tensor:
    values = []
    for i, (prompt, text) in enumerate(zip(PROMPTS, written, strict=True)):
        sampler = Sampler(params, prompt_ids=prompt, sample=i)
        for n in range(len(text)):
            d, v = (m.logits_after([*prompt, *text[:n]]) for m in (PROPOSER, VERIFIER))
            values.append(divergence(name)(d, v, sampler.choose(d, text[:n])))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize(("length", "end_ids"), [(20, ()), (33, (0,))])
def test_equals_the_definition(temperature: float, length: int, end_ids: tuple[int, ...]) -> None:
    params = SamplingParams(temperature=temperature, seed=3)
    made = calibrate(
        VERIFIER,
        PROPOSER,
        PROMPTS,
        params,
        tokens_per_prompt=length,
        end_ids=end_ids,
        batch_size=2,
    )
    written = texts(params, length, end_ids)
    assert [c.key.divergence for c in made] == list(DIVERGENCES)
    for c in made:
        values = expected(c.key.divergence, written, params)
        assert c.positions == len(values) == sum(map(len, written))
        assert c.quantiles == pytest.approx(quantiles(values), abs=1e-9)
        assert c.key.warps == params.warps
        assert (c.key.proposer.name, c.key.verifier.name) == ("small", "large")


def test_the_threshold_accepts_the_share_asked_for() -> None:
    [made] = calibrate(
        VERIFIER, PROPOSER, PROMPTS, PARAMS, tokens_per_prompt=40, divergences=["js"]
    )
    values = expected("js", texts(PARAMS, 40), PARAMS)
    for rate in (0.1, 0.5, 0.8, 1.0):
        rule = Fuzzy("js", made.threshold(rate))
        below, within = (values < rule.threshold - 1e-9), (values <= rule.threshold + 1e-9)
        assert float(below.double().mean()) < rate <= float(within.double().mean())


def test_equal_models_do_not_differ() -> None:
    for c in calibrate(VERIFIER, VERIFIER, PROMPTS, PARAMS, tokens_per_prompt=5):
        assert c.threshold(1.0) == pytest.approx(0.0, abs=1e-9)


def test_a_broken_proposer_is_within_no_threshold() -> None:
    table = PROPOSER.table.clone()
    table[:, 2] = math.nan
    broken = TabularModel(table, name="broken")
    for c in calibrate(VERIFIER, broken, PROMPTS, PARAMS, tokens_per_prompt=20):
        assert c.threshold(1.0) == math.inf and c.threshold(0.2) < math.inf


class Counting(TabularModel):
    """Counts the tokens it reads."""

    def __init__(self, table: torch.Tensor, name: str) -> None:
        super().__init__(table, name=name)
        self.read = 0
        self.passes = 0

    def forward(self, segments: list[Segment], want: list[IntArray]) -> list[Rows]:
        before = [0 if s.cache.fed else len(s.cache.pending) for s in segments]
        self.read += sum(before) + sum(len(s.tokens) for s in segments)
        self.passes += 1
        return super().forward(segments, want)


def test_each_model_reads_each_token_once() -> None:
    verifier, proposer = (Counting(m.table, m.info.name) for m in (VERIFIER, PROPOSER))
    calibrate(verifier, proposer, PROMPTS, PARAMS, tokens_per_prompt=40, batch_size=8)
    tokens = sum(len(p) + 40 - 1 for p in PROMPTS)
    assert (verifier.read, proposer.read) == (tokens, tokens)
    assert proposer.passes == 1 + 3 and verifier.passes == 1 + 40


def test_texts_end_where_a_window_does() -> None:
    for windows in ((12, 1000), (1000, 12)):
        pair = [
            TabularModel(m.table, context_length=w, name=m.info.name)
            for m, w in zip((VERIFIER, PROPOSER), windows, strict=True)
        ]
        made = calibrate(*pair, PROMPTS, PARAMS, tokens_per_prompt=30, divergences=["tv"])
        assert made[0].positions == sum(12 - len(p) for p in PROMPTS)
    small = TabularModel(PROPOSER.table, context_length=3)
    with pytest.raises(ContextError):
        calibrate(VERIFIER, small, PROMPTS, PARAMS, tokens_per_prompt=3)


def test_reports_progress_and_repeats_itself() -> None:
    seen: list[tuple[int, int]] = []
    unseeded = SamplingParams(temperature=0.9)
    made = [
        calibrate(
            VERIFIER,
            PROPOSER,
            PROMPTS,
            unseeded,
            tokens_per_prompt=9,
            batch_size=batch,
            progress=lambda done, total: seen.append((done, total)),
        )
        for batch in (2, 5)
    ]
    assert seen == [(2, 5), (4, 5), (5, 5), (5, 5)]
    for a, b in zip(*made, strict=True):
        assert a.key == b.key and np.allclose(a.quantiles, b.quantiles)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"divergences": ["jjs"]}, "unknown divergence 'jjs'"),
        ({"tokens_per_prompt": 0}, "of 0 tokens"),
        ({"prompts": []}, "^0 prompts"),
        ({"batch_size": 0}, "batches of 0"),
    ],
)
def test_refuses_what_can_not_be_measured(options: dict, words: str) -> None:
    options = {"prompts": PROMPTS, "params": PARAMS, **options}
    with pytest.raises(OptionError, match=words):
        calibrate(VERIFIER, PROPOSER, **options)
