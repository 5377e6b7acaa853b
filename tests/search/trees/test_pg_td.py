"""PG-TD: tree search over tokens with greedy completions."""

import itertools
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from outrider.core.errors import OptionError
from outrider.drafters import NoDrafter
from outrider.models.tabular import TabularModel
from outrider.search.scorers import programs
from outrider.search.scorers.programs import ProgramScorer, halves
from outrider.search.segments import branch_of
from outrider.search.trees.completions import Completions
from outrider.search.trees.mcts import Choice
from outrider.search.trees.pg_td import PgTd, Planned
from outrider.testing.rigs import finish, generation, stage, tabular_family
from outrider.testing.rigs import undrafted as plain
from outrider.testing.searches import END, LENGTH, Counted, LetterCodec, searched, task

pytestmark = pytest.mark.method("pg-td")

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3)
EDITS: list[dict[str, Any]] = [
    {},
    {"banned_tokens": (2, 5)},
    {"frequency_penalty": 1.5, "repetition_penalty": 1.3},
    {"forced_tokens": {1: 4}, "min_new_tokens": 5},
]


def noise(text: str) -> float:
    return zlib.crc32(text.encode()) / 2**32


def planned(search: PgTd, scorer=noise, model=MODEL, **more: Any) -> Planned:
    return search.planned(task(model, PROMPT, **{"scorer": scorer, **more}))


def greedy(**options: Any) -> tuple[int, ...]:
    alone = generation(PROMPT, end_ids=(END,), max_new_tokens=LENGTH, **options)
    finish(plain(stage(MODEL, NoDrafter())), [alone])
    return tuple(alone.output)


def tree_of(place: Choice) -> list[Any]:
    children = place.children and [tree_of(child) for child in place.children]
    return [place.token, place.prior, place.visits, place.value, children]


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("options", EDITS)
def test_one_rollout_is_greedy_decoding(options: dict[str, Any], drafted: bool) -> None:
    given = {"drafted": drafted, "scorer": noise, **options}
    found = searched(PgTd(rollouts=1), MODEL, PROMPT, **given)
    assert [one.token_ids for one in found.candidates] == [greedy(**options)]


def test_the_best_reward_never_falls_with_more_rollouts() -> None:
    scores, texts = [], set[tuple[int, ...]]()
    for rollouts in range(1, 25, 2):
        found = searched(PgTd(rollouts=rollouts, judge_cut=True), MODEL, PROMPT, scorer=noise)
        now = {one.token_ids for one in found.candidates}
        assert texts <= now
        texts = now
        scores.append(found.best.score)
        assert found.best.score == max(noise(one.text) for one in found.candidates)
    assert scores == sorted(scores) and scores[-1] > scores[0]


@pytest.mark.parametrize("options", EDITS)
@pytest.mark.parametrize("prior", ["model", "uniform"])
def test_with_and_without_caches_the_tree_is_the_same(options, prior: str) -> None:
    cached, uncached = (
        planned(PgTd(rollouts=25, judge_cut=True, prior=prior, cached=cached), **options)
        for cached in (True, False)
    )
    assert tree_of(cached.root) == tree_of(uncached.root)
    assert cached.history == uncached.history
    assert cached.candidates() == uncached.candidates()
    spent, more = cached.task.account, uncached.task.account
    assert spent.tokens < more.tokens and spent.forwards < more.forwards
    assert spent.scorer_calls == len(cached.rewards) < more.scorer_calls == 25


@pytest.mark.parametrize("rollouts", [1, 2, 9, 30])
def test_no_more_completions_than_rollouts(rollouts: int) -> None:
    found = planned(PgTd(rollouts=rollouts))
    assert found.completions.written <= rollouts
    assert len(found.history) == rollouts >= len(found.rewards)
    assert sum(child.visits for child in found.root.children or []) == rollouts


def test_children_are_the_most_probable_tokens_with_their_shares() -> None:
    found = planned(PgTd(rollouts=20, children=4))

    def check(place: Choice, path: tuple[int, ...]) -> int:
        if not place.children:
            return 0
        probs = MODEL.logits_after((*PROMPT, *path)).softmax(-1)  # type: ignore[attr-defined]
        values, ids = probs.topk(4)
        assert [child.token for child in place.children] == ids.tolist()
        shares = (values / values.sum()).tolist()
        assert [child.prior for child in place.children] == pytest.approx(shares)
        return 1 + sum(check(child, (*path, child.token)) for child in place.children)

    assert check(found.root, ()) > 5


def test_all_priors_may_be_equal() -> None:
    found = planned(PgTd(rollouts=3, children=4, prior="uniform"))
    assert [child.prior for child in found.root.children or []] == [0.25] * 4


def test_with_all_tokens_and_many_rollouts_the_best_of_all_texts_is_found() -> None:
    model = TabularModel.random(vocab_size=4, seed=4)
    texts = ["".join(t) for n in range(4) for t in itertools.product("bc", repeat=n)]
    given = {"max_new_tokens": 4, "banned_tokens": (3,)}
    found = planned(PgTd(rollouts=300, constant=20.0, prior="uniform"), model=model, **given)
    best = found.candidates()[0]
    assert best.score == max(noise(text) for text in texts) and best.finish_reason == "stop"


def test_texts_that_are_cut_are_not_judged_and_count_nothing() -> None:
    counted = Counted()
    found = planned(PgTd(rollouts=20), counted)
    kinds = {text.finish for text in found.rewards}
    assert kinds == {"stop", "length"}
    assert all(reward == 0.0 for text, reward in found.rewards.items() if text.finish == "length")
    assert counted.texts == sum(text.finish == "stop" for text in found.rewards)
    judged = planned(PgTd(rollouts=20, judge_cut=True), noise)
    texts = LetterCodec().decode
    assert all(reward == noise(texts(text.tokens)) for text, reward in judged.rewards.items())


def test_it_ends_at_a_reward_that_is_enough() -> None:
    whole = planned(PgTd(rollouts=25, judge_cut=True))
    wanted = sorted(set(whole.history))[-2]
    first = next(i for i, reward in enumerate(whole.history) if reward >= wanted)
    found = planned(PgTd(rollouts=25, judge_cut=True, enough=wanted))
    assert found.history == whole.history[: first + 1]


@pytest.mark.parametrize("options", EDITS)
@pytest.mark.parametrize("drafted", [False, True])
def test_what_a_completion_gives_is_what_the_model_gives(options, drafted: bool) -> None:
    """Completions and next tokens of the beginnings of a completion are not asked for again."""
    given = {"ignore_eos": True, "max_new_tokens": 40, **options}
    own = task(MODEL, PROMPT, drafted=drafted, **given)
    known = Completions(task=own, top=3)
    text = known.whole((4,) if not options.get("forced_tokens") else ())
    spent = own.account.forwards
    if drafted and not options.get("frequency_penalty"):
        assert spent < len(text.tokens) - 5, "no draft was accepted"
    for end in range(1, len(text.tokens)):
        path = text.tokens[:end]
        assert known.whole(path) == text
        row = own.sampler.process(MODEL.logits_after((*PROMPT, *path)), path)  # type: ignore[attr-defined]
        values, ids = torch.log_softmax(row, -1).topk(3)
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        expected = [(token, value) for token, value in pairs if value > float("-inf")]
        assert [token for token, _ in known.best(path)] == [token for token, _ in expected]
        assert [v for _, v in known.best(path)] == pytest.approx([v for _, v in expected])
    assert own.account.forwards == spent and known.written == 1


def test_rows_that_are_read_again_are_counted() -> None:
    own = task(MODEL, PROMPT, ignore_eos=True)
    [passage] = own.passages.write([branch_of(own.cache, (4, 5, 6))], [0], most=2, greedy=True)
    assert len(passage.tokens) == 2
    assert own.account.forwards == 2
    assert own.account.tokens == 4 + 1  # the end of the prompt and three tokens, then one


def test_a_scorer_of_programs_never_sees_private_tests(monkeypatch) -> None:
    tests = [f"assert f({i}) == {i}" for i in range(7)]
    public, private = halves(tests)
    seen: list[str] = []

    def run(program: str, given: Sequence[str], limits) -> list[bool]:
        seen.extend([program, *given])
        return [zlib.crc32((program + test).encode()) % 2 == 0 for test in given]

    monkeypatch.setattr(programs, "run_tests", run)
    monkeypatch.setattr(programs, "trouble", lambda: "")
    scorer = ProgramScorer(tuple(public), allow_code_execution=True)
    found = searched(PgTd(rollouts=20, judge_cut=True), MODEL, PROMPT, scorer=scorer)
    assert set(public) < set(seen) and set(private).isdisjoint(seen)
    texts = [one.text for one in found.candidates]
    assert set(seen) <= {*public, *texts} and len(seen) == len(texts) * (1 + len(public))
    assert found.best.score > 0.0


@pytest.mark.parametrize(
    "options", [{"rollouts": 0}, {"children": 0}, {"prior": "other"}, {"base": 0}, {"constant": -1}]
)
def test_options_are_checked(options) -> None:
    with pytest.raises(OptionError):
        PgTd(**options)
