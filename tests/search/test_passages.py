"""Passages: sampled or greedy continuations of branches."""

import pytest

from outrider.drafters import NoDrafter
from outrider.search import Limits
from outrider.search.account import SearchStoppedError
from outrider.search.segments import Passage
from outrider.testing.rigs import finish, generation, stage, tabular_family
from outrider.testing.rigs import undrafted as plain
from outrider.testing.searches import END, LENGTH, task

MODEL = tabular_family(seed=1).target
PROMPT = (1, 2, 3, 1, 2, 3)


def written(drafted: bool, samples: range, **sampling: float) -> list[Passage]:
    own = task(MODEL, PROMPT, drafted=drafted, **sampling)
    return own.passages.write([own.root] * len(samples), samples, most=LENGTH)


@pytest.mark.parametrize("drafted", [False, True])
def test_a_passage_is_what_generate_writes(drafted: bool) -> None:
    for sample, passage in enumerate(written(drafted, range(4), temperature=1.0)):
        alone = generation(
            PROMPT,
            end_ids=(END,),
            sample=sample,
            temperature=1.0,
            max_new_tokens=LENGTH,
        )
        finish(plain(stage(MODEL, NoDrafter())), [alone])
        assert list(passage.tokens) == alone.output
        assert passage.finish == str(alone.finish)


def test_log_probabilities_are_those_of_the_model() -> None:
    [passage] = written(True, range(1), temperature=1.0)
    for i, logprob in enumerate(passage.logprobs):
        row = MODEL.logits_after((*PROMPT, *passage.tokens[:i])).log_softmax(-1)
        assert logprob == pytest.approx(float(row[passage.tokens[i]]), abs=1e-9)


def test_a_passage_in_parts_is_the_passage() -> None:
    """The noise depends on the index of a token and not on where a passage begins."""
    whole = written(False, range(3), temperature=1.0, ignore_eos=True)
    own = task(MODEL, PROMPT, drafted=True, temperature=1.0, ignore_eos=True)
    first = own.passages.write([own.root] * 3, range(3), most=LENGTH, until=lambda new: 4)
    assert [p.finish for p in first] == ["until"] * 3
    rest = own.passages.write([p.branch for p in first], range(3), most=LENGTH - 4)
    assert [(*a.tokens, *b.tokens) for a, b in zip(first, rest, strict=True)] == [
        p.tokens for p in whole
    ]
    again = own.passages.write([p.branch for p in first], range(3), most=LENGTH - 4)
    assert [p.tokens for p in again] == [p.tokens for p in rest]  # branches are never written


def test_a_condition_cuts_a_drafted_round() -> None:
    def until(new) -> int | None:
        return next((i + 1 for i, token in enumerate(new) if token == 2), None)

    cut = task(MODEL, PROMPT, drafted=True, ignore_eos=True)
    [passage] = cut.passages.write([cut.root], [0], most=LENGTH, until=until)
    [whole] = task(MODEL, PROMPT, ignore_eos=True).passages.write([cut.root], [0], most=LENGTH)
    assert passage.finish == "until"
    assert passage.tokens[-1] == 2 and 2 not in passage.tokens[:-1]
    assert passage.tokens == whole.tokens[: len(passage.tokens)]
    cache = passage.branch.cache
    assert list(cache.text) == [*PROMPT, *passage.tokens]


def test_enough_ends_the_others() -> None:
    own = task(MODEL, PROMPT, temperature=1.5)
    found = own.passages.write(
        [own.root] * 6, range(6), most=200, enough=lambda ended: len(ended) >= 2
    )
    done = [p for p in found if p.finish != "cut"]
    assert len(done) >= 2
    longest = max(len(p.tokens) for p in done)
    assert all(len(p.tokens) <= longest for p in found)


def test_greedy_passages_have_no_noise() -> None:
    own = task(MODEL, PROMPT, temperature=1.5)
    a, b = own.passages.write([own.root] * 2, [0, 1], most=LENGTH, greedy=True)
    assert a.tokens == b.tokens


def test_a_limit_ends_a_passage() -> None:
    own = task(MODEL, PROMPT, limits=Limits(tokens=3), ignore_eos=True)
    with pytest.raises(SearchStoppedError, match="limit of 3 computed tokens"):
        own.passages.write([own.root], [0], most=LENGTH)


def test_no_room_is_an_empty_passage() -> None:
    own = task(MODEL, PROMPT)
    [passage] = own.passages.write([own.root], [0], most=0)
    assert passage.tokens == () and passage.finish == "length"
    assert passage.branch.output == ()


@pytest.mark.parametrize("drafted", [False, True])
@pytest.mark.parametrize("seed", [0, 2, 5, 7])
def test_the_shortest_are_the_same_with_drafts(drafted: bool, seed: int) -> None:
    """A round of drafts writes several tokens; what is cut has the length of the longest wanted."""
    own = task(MODEL, PROMPT, drafted=drafted, temperature=0.8, seed=seed)
    most = [2, *[60] * 5]  # the first one ends without an end token
    whole = own.passages.write([own.root] * 6, range(6), most=most)
    found = own.passages.write([own.root] * 6, range(6), most=most, shortest=2)
    bound = sorted(len(passage.tokens) for passage in whole if passage.finish == "stop")[1]
    for passage, full in zip(found, whole, strict=True):
        assert passage.tokens == full.tokens[:bound]
        assert passage.finish == (full.finish if len(full.tokens) <= bound else "cut")
        assert len(passage.logprobs) == len(passage.tokens)
        assert list(passage.branch.cache.text) == [*PROMPT, *passage.tokens]
        assert passage.branch.output == passage.tokens
    assert own.passages.so_far() == found


def test_a_stopped_search_has_the_passages_so_far() -> None:
    own = task(MODEL, PROMPT, limits=Limits(tokens=6), ignore_eos=True, temperature=1.0)
    with pytest.raises(SearchStoppedError):
        own.passages.write([own.root] * 2, [0, 1], most=LENGTH)
    assert [len(passage.tokens) for passage in own.passages.so_far()] == [3, 3]
