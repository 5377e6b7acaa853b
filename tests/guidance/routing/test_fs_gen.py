"""FS-GEN: who writes which token, and what is reported about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.drafters import ModelDrafter, NoDrafter
from outrider.guidance.mixed import Mixed
from outrider.guidance.recipe import Parts
from outrider.guidance.routing.fs_gen import FsGen
from outrider.guidance.routing.routers import FEATURES, Machine, gap, top_probs
from outrider.guidance.routing.steps import steps_of
from outrider.models.tabular import TabularModel
from outrider.protocols import Segment
from tests.exactness.setups.rigs import outputs, run, stage

pytestmark = pytest.mark.method("fs-gen")

LARGE = TabularModel.random(vocab_size=12, order=2, seed=4)
SMALL = TabularModel.random(vocab_size=12, order=2, seed=5, near=LARGE, distance=0.8)
TUNED = TabularModel.random(vocab_size=12, order=2, seed=6)
PROMPT = Prompt(token_ids=(1, 2))
INF = float("inf")


def built(large: TabularModel = LARGE, small: TabularModel = SMALL, **options: Any) -> Mixed:
    tuned = {"tuned": TUNED} if options.get("slow") == "proxy" else {}
    recipe = FsGen(small=small, **tuned, **options)
    model = recipe.build(Parts(target=large, models={"small": small, **tuned}))
    assert isinstance(model, Mixed)
    return model


def text(model: Any, count: int = 40, drafter: Any = None) -> tuple[int, ...]:
    [found] = outputs(run(stage(model, drafter or NoDrafter()), [PROMPT], max_new_tokens=count))
    return found


def row(model: Any) -> Tensor:
    """The logits after the prompt."""
    [cache] = model.start([PROMPT])
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
    return rows.logits[0]


def logits(model: TabularModel, written: list[int] | None = None) -> Tensor:
    return model.logits_after([*PROMPT.token_ids, *(written or [])])


@dataclass
class Loop:
    """The loop of the paper by hand, where each text is read from its beginning."""

    threshold: float
    tokens: tuple[int, ...] = ()
    routed: tuple[bool, ...] = ()
    changed: tuple[bool, ...] = ()

    def run(self, count: int = 40) -> "Loop":
        for _ in range(count):
            small, large = (logits(model, list(self.tokens)) for model in (SMALL, LARGE))
            asks = float(torch.softmax(small, dim=-1).max()) < self.threshold
            token = int((large if asks else small).argmax())
            self.tokens += (token,)
            self.routed += (asks,)
            self.changed += (asks and token != int(small.argmax()),)
        return self


class Counted(TabularModel):
    """Counts the rows that it is asked for."""

    rows = 0

    def forward(self, segments: Any, want: Any) -> Any:
        self.rows += sum(map(len, want))
        return super().forward(segments, want)


def test_never_is_the_small_model() -> None:
    assert text(built(router="never")) == text(SMALL) != text(LARGE)


def test_always_with_the_oracle_is_the_target() -> None:
    assert text(built(router="always")) == text(LARGE)


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.5])
def test_the_same_tokens_whether_caches_are_kept_or_the_text_is_read_again(
    threshold: float,
) -> None:
    assert text(built(threshold=threshold)) == Loop(threshold).run().tokens
    assert len({text(SMALL), text(LARGE), text(built(threshold=0.4))}) == 3


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.5])
def test_the_reported_mismatch_rate_is_the_share_of_routed_steps_that_changed_the_token(
    threshold: float,
) -> None:
    loop = Loop(threshold).run()
    found = steps_of(built(threshold=threshold), PROMPT, loop.tokens)
    assert tuple(found.routed) == loop.routed and tuple(found.changed) == loop.changed
    assert 0 < sum(loop.changed) < sum(loop.routed) < 40
    assert found.mismatch == sum(loop.changed) / sum(loop.routed)
    assert found.frequency == sum(loop.routed) / 40


def test_thresholds_that_are_not_given_are_those_of_the_description() -> None:
    written = text(SMALL)

    def routed(**options: Any) -> list[bool]:
        return steps_of(built(**options), PROMPT, written).routed.tolist()

    assert routed() == routed(threshold=0.5) != routed(threshold=0.55)
    gaps = [routed(router="gap", **given) for given in ({}, {"threshold": 0.15})]
    assert gaps[0] == gaps[1] != routed(router="gap", threshold=0.2)


def test_without_a_routed_step_the_rates_are_zero() -> None:
    for output in ((), (3, 4)):
        found = steps_of(built(router="never"), PROMPT, output)
        assert (found.frequency, found.mismatch, len(found.routed)) == (0.0, 0.0, len(output))
    with pytest.raises(TypeError, match="not guided by fs-gen"):
        steps_of(LARGE, PROMPT, (1,))


def test_the_target_is_read_for_the_routed_rows_only() -> None:
    large, small = Counted(LARGE.table), Counted(SMALL.table)
    loop = Loop(0.4).run()
    assert text(built(large, small, threshold=0.4)) == loop.tokens
    assert (large.rows, small.rows) == (sum(loop.routed), 40)


def test_the_trap_half_a_gap_below_the_papers_threshold_asks_at_every_token() -> None:
    peaked = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert bool(gap(0.5)(peaked).all())
    assert gap(0.15)(peaked).tolist() == [False, True, True]
    with pytest.raises(OptionError, match=r"threshold is 0\.5"):
        FsGen(small=SMALL, router="gap", threshold=0.5)


def test_a_gap_is_half_the_distance_of_the_two_largest_probabilities() -> None:
    probs = torch.tensor([[0.1, 0.6, 0.3], [0.45, 0.1, 0.45]])
    for threshold, expected in ((0.16, [True, True]), (0.14, [False, True]), (0.0, [False] * 2)):
        assert gap(threshold)(probs.log()).tolist() == expected


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_speculative_is_drafting_with_the_small_model_and_changes_no_text(
    threshold: float,
) -> None:
    drafter = ModelDrafter(model=SMALL)
    assert text(LARGE, drafter=drafter) == text(built(router="always"))
    model = built(threshold=threshold)
    [found] = run(stage(model, drafter), [PROMPT], max_new_tokens=40)
    assert tuple(found.output) == text(model)
    # Each round ends with its drafts, or where the slow side changes a token.
    changed = int(steps_of(model, PROMPT, found.output).changed.sum())
    assert changed > 0 and found.counters.rounds <= changed + 40 / 4 < 40


class TestSlowSides:
    def test_contrast_is_the_papers_sum_among_plausible_tokens(self) -> None:
        found = row(built(router="always", slow="contrast", beta=1.5, alpha=0.2))
        large, small = logits(LARGE), logits(SMALL)
        kept = large >= np.log(0.2) + large.max()
        expected = torch.where(kept, small + 1.5 * (large - small), -INF)
        torch.testing.assert_close(torch.softmax(found, -1), torch.softmax(expected, -1))
        assert 1 < int(kept.sum()) < 12

    def test_the_papers_beta_is_an_average_and_only_above_one_it_is_a_contrast(self) -> None:
        apart = logits(LARGE).log_softmax(-1) - logits(SMALL).log_softmax(-1)
        for beta, nearer in ((0.5, True), (1.5, False)):
            found = row(built(router="always", slow="contrast", beta=beta, alpha=0.0))
            moved = found - logits(LARGE).log_softmax(-1)
            assert torch.allclose(moved, (beta - 1.0) * apart)
            # Below 1 it lies between the two models; above 1 it is beyond the target.
            assert bool(((moved * apart) <= 0.0).all()) is nearer

    def test_a_beta_of_one_without_a_mask_is_the_target(self) -> None:
        found = row(built(router="always", slow="contrast", beta=1.0, alpha=0.0))
        assert torch.equal(found, logits(LARGE))

    def test_proxy_adds_what_tuning_has_changed(self) -> None:
        found = row(built(router="always", slow="proxy", strength=0.7))
        expected = logits(LARGE) + 0.7 * (logits(TUNED) - logits(SMALL))
        torch.testing.assert_close(found, expected)
        assert text(built(slow="proxy", strength=0.0)) == text(built())

    @pytest.mark.parametrize("slow", ["contrast", "proxy"])
    def test_rows_that_are_not_routed_are_those_of_the_small_model(self, slow: str) -> None:
        model = built(slow=slow, threshold=0.4)
        [cache] = model.start([PROMPT])
        written = [3, 4, 5, 6, 7, 8, 9, 10]
        [rows] = model.forward([Segment(cache, as_ids(written))], [as_ids(range(-1, 8))])
        own = torch.stack([logits(SMALL, written[:n]) for n in range(9)])
        asked = torch.softmax(own, -1).amax(-1) < 0.4
        assert 0 < int(asked.sum()) < 9
        assert torch.equal(rows.logits[~asked], own[~asked])
        assert not bool((rows.logits[asked] == own[asked]).all(-1).any())


class TestMachine:
    VECTORS = np.linspace(0.0, 1.0, 3 * FEATURES).reshape(3, FEATURES)
    MADE = Machine(vectors=VECTORS, weights=np.array([1.0, -2.0, 0.5]), gamma=0.7, bias=0.1)

    @given(st.lists(st.floats(0.0, 1.0), min_size=FEATURES, max_size=FEATURES))
    def test_its_value_is_that_of_the_definition(self, probs: list[float]) -> None:
        expected = 0.1
        for vector, weight in zip(self.VECTORS, (1.0, -2.0, 0.5), strict=True):
            apart = sum((a - b) ** 2 for a, b in zip(vector, probs, strict=True))
            expected += weight * np.exp(-0.7 * apart)
        assert self.MADE.value(np.array(probs)) == pytest.approx(expected, abs=1e-12)

    def test_its_value_is_that_of_scikit_learn(self) -> None:
        svm = pytest.importorskip("sklearn.svm")
        random = np.random.default_rng(3)
        seen = random.dirichlet(np.ones(FEATURES), size=60)
        asked = seen.max(axis=1) < np.median(seen.max(axis=1))
        fitted = svm.SVC(kernel="rbf", gamma=2.0).fit(seen, asked)
        made = Machine(
            vectors=fitted.support_vectors_,
            weights=fitted.dual_coef_[0],
            gamma=2.0,
            bias=float(fitted.intercept_[0]),
        )
        found = [made.value(one) for one in seen]
        assert found == pytest.approx(fitted.decision_function(seen).tolist(), abs=1e-9)
        logs = torch.tensor(np.sort(seen, axis=1)).log()
        assert made(logs).tolist() == fitted.predict(np.sort(seen, axis=1)[:, ::-1]).tolist()

    def test_it_reads_the_largest_probabilities_in_order(self) -> None:
        probs = torch.tensor([0.1, 0.7, 0.2]).double()
        found = top_probs(probs.log()[None])[0]
        torch.testing.assert_close(found[:3], torch.tensor([0.7, 0.2, 0.1]).double())
        assert found.shape == (FEATURES,) and not bool(found[3:].any())

    def test_a_file_routes(self, tmp_path: Path) -> None:
        # Asks near an even distribution, far from a peak.
        peak = np.eye(FEATURES)[:1]
        made = Machine(vectors=peak, weights=np.array([-1.0]), gamma=1.0, bias=0.6)
        made.save(tmp_path / "router.npz")
        model = built(router="svm", svm=str(tmp_path / "router.npz"))
        found = steps_of(model, PROMPT, text(model))
        assert 0.1 < found.frequency < 0.9 and found.changed.any()

    @pytest.mark.parametrize("content", [None, b"", b"no array", b"PK\x03\x04 broken"])
    def test_a_bad_file_is_named(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "router.npz"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(OptionError, match=r"router\.npz does not hold a router"):
            Machine.load(path)

    def test_wrong_shapes_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "router.npz"
        for vectors, weights in (((3, 4), (3,)), ((3, FEATURES), (2,)), ((3, FEATURES), (3, 1))):
            np.savez(path, vectors=np.ones(vectors), weights=np.ones(weights), gamma=1, bias=0)
            with pytest.raises(OptionError, match=r"has vectors of shape \(3, "):
                Machine.load(path)
        np.savez(path, vectors=np.ones((3, FEATURES)), weights=np.ones(3), gamma=1)
        with pytest.raises(OptionError, match="does not hold a router"):
            Machine.load(path)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"router": "maxprob"}, "router is 'maxprob'"),
        ({"slow": "oracel"}, "slow is 'oracel'"),
        ({"threshold": 1.5}, r"threshold is 1\.5"),
        ({"router": "always", "threshold": 0.5}, "router 'always' has no threshold"),
        ({"router": "svm"}, "go together"),
        ({"svm": "x.npz"}, "go together"),
        ({"alpha": 1.5}, "alpha is"),
        ({"beta": -0.5}, "beta is"),
        ({"strength": INF}, "strength is"),
        ({"slow": "proxy"}, "needs either `tuned` or `adapter`"),
        ({"slow": "proxy", "tuned": TUNED, "adapter": "x"}, "needs either"),
        ({"tuned": TUNED}, "and neither otherwise"),
        ({"beta": 2.0}, "beta is given, and slow=oracle does not read it"),
        ({"alpha": 0.2, "slow": "proxy", "tuned": TUNED}, "alpha is given, and slow=proxy"),
        ({"strength": 0.5, "slow": "contrast"}, "strength is given, and slow=contrast"),
    ],
)
def test_one_line_says_which_option_is_wrong(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(OptionError, match=problem) as caught:
        FsGen(small=SMALL, **options)
    assert caught.value.hint


def test_an_adapter_is_that_of_a_second_copy_of_the_small_model() -> None:
    recipe = FsGen(small="small", slow="proxy", adapter="lora")
    assert dict(recipe.models()) == {"small": "small", "tuned": "small"}
    assert dict(recipe.adapters()) == {"tuned": "lora"}
    recipe = FsGen(small="small", slow="proxy", tuned="other")
    assert dict(recipe.models()) == {"small": "small", "tuned": "other"}
    assert dict(FsGen(small="small").models()) == {"small": "small"}
    assert dict(FsGen(small="small").adapters()) == {}
