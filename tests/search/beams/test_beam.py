"""Beam search: as in `transformers`, by brute force, and where it ends."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from outrider.core.errors import LogitsError, OptionError
from outrider.models.llama.decoder import Decoder
from outrider.models.tabular import TabularModel
from outrider.search import Limits, SearchResult, run_search
from outrider.search.beams.beam import METHOD, BeamSearch
from outrider.search.tree import TokenTree
from outrider.testing.rigs import finish, generation, stage, undrafted
from outrider.testing.searches import END, searched, task
from tests.models.heads.setups import VOCAB, make_target

pytestmark = pytest.mark.method("beam")

MODEL = TabularModel.random(vocab_size=5, seed=2)
PROMPT = (1, 2)

Pair = tuple[Decoder, Any]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A random checkpoint in float64, read by Outrider and by `transformers`."""
    folder = make_target(tmp_path_factory.mktemp("beam") / "target", num_hidden_layers=2)
    theirs = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    yield Decoder.load(folder, dtype=torch.float64), theirs


CASES: list[dict[str, Any]] = [
    {"num_beams": 2, "ends": ()},
    {"num_beams": 5, "length_penalty": 0.0},
    {"num_beams": 5, "early_stopping": "never"},
    {"num_beams": 5, "early_stopping": True, "prompt": (4,)},
    {"num_beams": 5, "length_penalty": 2.0, "early_stopping": "never", "prompt": (9, 9, 9)},
    {"num_beams": 5, "length_penalty": -1.0, "early_stopping": "never", "prompt": (7, 8)},
    {"num_beams": 3, "length_penalty": 0.6, "num_return_sequences": 2, "prompt": (40, 1, 2)},
    {"num_beams": 4, "repetition_penalty": 1.4, "prompt": (3, 4, 5, 3, 4, 5)},
    {"num_beams": 4, "repetition_penalty": 0.7, "early_stopping": True, "length_penalty": 0.0},
    {"num_beams": 4, "min_new_tokens": 5, "early_stopping": True, "prompt": (11, 12)},
    {"num_beams": 6, "max_new_tokens": 1},
    {"num_beams": 5, "max_new_tokens": 2, "ends": tuple(range(5, 12))},
    {"num_beams": 1, "repetition_penalty": 1.4},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shift", [0, 1])
def test_texts_scores_and_forwards_are_those_of_transformers(
    pair: Pair, case: dict[str, Any], shift: int
) -> None:
    case = {"prompt": (1, 2, 3, 4), "max_new_tokens": 12, "ends": (5, 17, 23), **case}
    prompt = [(token + 13 * shift) % VOCAB for token in case.pop("prompt")]
    ends, beams = case.pop("ends"), case["num_beams"]
    sampling = ("max_new_tokens", "min_new_tokens", "repetition_penalty")
    shared = {name: case.pop(name) for name in sampling if name in case}
    found = compared(pair[0], BeamSearch(**case), prompt, stop_token_ids=ends, **shared)
    with torch.inference_mode():
        theirs = pair[1].generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            eos_token_id=list(ends) or None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
            **{"num_return_sequences": beams, **case, **shared},
        )
    texts = [cut(row, ends) for row in theirs.sequences[:, len(prompt) :].tolist()]
    assert [one.token_ids for one in found.candidates] == texts
    assert found.forwards == len(theirs.scores)
    if beams > 1:
        scores = [one.score for one in found.candidates]
        assert scores == pytest.approx(theirs.sequences_scores.tolist(), rel=2e-6)


def compared(
    model: Decoder, search: BeamSearch, prompt: Sequence[int], **options: Any
) -> SearchResult:
    own = task(model, prompt, ignore_eos=True, **options)
    own.codec = None  # its letters are too few
    return run_search(search, own, "beam")


def cut(row: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    """A text up to its first end token."""
    end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return tuple(row[:end])


def logprob(text: Sequence[int], model: TabularModel = MODEL) -> float:
    rows = [model.logits_after((*PROMPT, *text[:i])) for i in range(len(text))]
    return sum(
        float(torch.log_softmax(row, -1)[token]) for row, token in zip(rows, text, strict=True)
    )


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_of_all_branches_is_exact(length_penalty: float) -> None:
    texts: list[tuple[int, ...]] = []
    for length in range(1, 5):
        for text in itertools.product(range(5), repeat=length):
            whole = text[-1] == END or length == 4
            texts += [text] if END not in text[:-1] and whole else []
    best = sorted(texts, key=lambda one: -logprob(one) / len(one) ** length_penalty)
    search = BeamSearch(num_beams=400, length_penalty=length_penalty, early_stopping="never")
    found = searched(search, MODEL, PROMPT, max_new_tokens=4)
    assert [one.token_ids for one in found.candidates[:30]] == best[:30]
    for one in found.candidates:
        assert one.logprob == pytest.approx(logprob(one.token_ids))
        assert one.score == pytest.approx(
            logprob(one.token_ids) / len(one.token_ids) ** length_penalty
        )


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_one_beam_is_greedy_decoding(early_stopping: bool | str) -> None:
    for seed in range(4):
        model = TabularModel.random(vocab_size=7, seed=seed)
        options: dict[str, Any] = {"max_new_tokens": 9, "repetition_penalty": 1.3}
        search = BeamSearch(num_beams=1, early_stopping=early_stopping)
        found = searched(search, model, PROMPT, **options)
        greedy = generation(PROMPT, end_ids=(END,), **options)
        finish(undrafted(stage(model, task(model, PROMPT).stage.drafter)), [greedy])
        assert list(found.best.token_ids) == greedy.output


def stopping(seed: int, length_penalty: float = 1.0) -> list[SearchResult]:
    """Results of one search that stops early, by its present length, and never early."""
    model = TabularModel.random(vocab_size=7, seed=seed)
    return [
        searched(
            BeamSearch(num_beams=3, early_stopping=early, length_penalty=length_penalty),
            model,
            PROMPT,
        )
        for early in (True, False, "never")
    ]


def test_never_goes_on_until_no_longer_text_could_be_better() -> None:
    for seed in (9, 33):
        early, present, never = stopping(seed)
        assert early.forwards < present.forwards <= never.forwards
        assert early.best.score <= present.best.score <= never.best.score
        assert early.best.score < never.best.score
    _, present, never = stopping(33)
    assert present.best.score < never.best.score
    _, present, never = stopping(3)
    assert present.forwards == 4 and never.forwards == 12


def test_never_is_the_present_length_where_longer_texts_score_less() -> None:
    for seed in (1, 3, 16):
        _, present, never = stopping(seed, length_penalty=0.0)
        assert never == replace(present, seconds=never.seconds)
        assert never.forwards < 12


def test_one_forward_a_step() -> None:
    found = searched(BeamSearch(num_beams=3), MODEL, PROMPT, max_new_tokens=9, ignore_eos=True)
    assert found.forwards == 9  # the tokens of the last step are not read


def test_penalties_change_scores_and_not_log_probabilities() -> None:
    search = BeamSearch(num_beams=3)
    found = searched(search, MODEL, PROMPT, max_new_tokens=6, repetition_penalty=1.5)
    for one in found.candidates:
        assert one.logprob == pytest.approx(logprob(one.token_ids))
        assert one.about["ranked"] == pytest.approx(one.score * len(one.token_ids))
    assert any(one.logprob != pytest.approx(one.about["ranked"]) for one in found.candidates)


def test_a_text_of_one_token() -> None:
    row = torch.log_softmax(MODEL.logits_after(PROMPT), -1)
    found = searched(BeamSearch(num_beams=4), MODEL, PROMPT, max_new_tokens=1)
    values, ids = row.topk(4)
    assert [one.token_ids for one in found.candidates] == [(i,) for i in ids.tolist()]
    assert [one.score for one in found.candidates] == pytest.approx(values.tolist())
    reasons = {one.token_ids[0]: one.finish_reason for one in found.candidates}
    assert all(reason == ("stop" if t == END else "length") for t, reason in reasons.items())
    assert found.forwards == 1


@pytest.mark.parametrize("room", [1, 5])
def test_a_full_window_ends_all_texts(room: int) -> None:
    model = TabularModel(MODEL.table, context_length=len(PROMPT) + room)
    search = BeamSearch(num_beams=3)
    found = searched(search, model, PROMPT, max_new_tokens=9, ignore_eos=True)
    wide = searched(search, MODEL, PROMPT, max_new_tokens=room, ignore_eos=True)
    assert found.candidates == wide.candidates
    assert {one.finish_reason for one in found.candidates} == {"length"}


def test_all_beams_end_at_once() -> None:
    search = BeamSearch(num_beams=4)
    found = searched(search, MODEL, PROMPT, min_new_tokens=3, forced_tokens={2: END})
    shorter = searched(search, MODEL, PROMPT, max_new_tokens=2, min_new_tokens=2)
    ended = [(*one.token_ids, END) for one in shorter.candidates]
    assert [one.token_ids for one in found.candidates] == ended
    assert found.forwards == 3


def forbids(first: int) -> Any:
    """A processor that allows nothing after texts that begin with this token."""

    def processor(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        new = ids[0, len(PROMPT) :].tolist()
        return torch.full_like(scores, -torch.inf) if new[:1] == [first] else scores

    return processor


def test_a_beam_after_which_nothing_is_allowed_is_given_up() -> None:
    plain = searched(BeamSearch(num_beams=3), MODEL, PROMPT, max_new_tokens=5, ignore_eos=True)
    first = plain.best.token_ids[0]
    found = searched(
        BeamSearch(num_beams=3),
        MODEL,
        PROMPT,
        max_new_tokens=5,
        ignore_eos=True,
        logits_processors=(forbids(first),),
    )
    assert len(found.candidates) == 3
    assert all(one.token_ids[0] != first and len(one.token_ids) == 5 for one in found.candidates)
    assert all(one.score > -torch.inf for one in found.candidates)


def test_nothing_that_is_allowed_is_an_error() -> None:
    for beams in (1, 3):
        with pytest.raises(LogitsError, match="no token is allowed"):
            searched(BeamSearch(num_beams=beams), MODEL, PROMPT, banned_tokens=(0, 1, 2, 3, 4))


def test_texts_that_ended_are_kept_where_nothing_is_allowed_any_more() -> None:
    def only_end(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf) if ids.shape[1] > len(PROMPT) else scores

    found = searched(BeamSearch(num_beams=5), MODEL, PROMPT, logits_processors=(only_end,))
    assert [one.token_ids for one in found.candidates] == [(END,)]


def test_numbers_that_are_not_finite_are_an_error() -> None:
    model = TabularModel(torch.full_like(MODEL.table, torch.nan))
    with pytest.raises(LogitsError, match="NaN"):
        searched(BeamSearch(), model, PROMPT)


def test_a_limit_returns_what_runs_on() -> None:
    search = BeamSearch(num_beams=3)
    found = searched(search, MODEL, PROMPT, ignore_eos=True, limits=Limits(tokens=7))
    assert "limit of 7" in found.stopped and len(found.candidates) == 3
    assert {one.finish_reason for one in found.candidates} == {"unfinished"}
    assert {len(one.token_ids) for one in found.candidates} == {3}
    for one in found.candidates:
        assert one.score == pytest.approx(logprob(one.token_ids) / 3)


def test_the_prompt_and_common_beginnings_are_stored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    needed: list[int] = []
    keep = TokenTree.keep

    def watched(tree: TokenTree, leaves: Any) -> None:
        keep(tree, leaves)
        live = set[int]()
        for leaf in leaves:
            while leaf.row >= 0:
                live.add(leaf.row)
                leaf = leaf.parent
        text = len(tree.cache.text)
        needed.append(text + len(live))
        shares.append((text + len(tree._nodes)) / needed[-1])

    monkeypatch.setattr(TokenTree, "keep", watched)
    prompt = (1, 2, 3, 4) * 20
    search = BeamSearch(num_beams=5)
    found = searched(search, MODEL, prompt, max_new_tokens=120, ignore_eos=True)
    assert len(shares) == 119 and max(shares) <= 1.2
    assert found.cache_rows <= 1.2 * max(needed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"length_penalty": float("nan")}, "length_penalty is nan"),
        ({"early_stopping": "always"}, "early_stopping is 'always'"),
        ({"num_beams": 2, "num_return_sequences": 3}, "above num_beams 2"),
        ({"num_return_sequences": 0}, "num_return_sequences is 0"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        METHOD.build(options)


def test_never_is_an_option() -> None:
    made = METHOD.build({"early_stopping": "never"})
    assert isinstance(made, BeamSearch) and made.early_stopping == "never"
