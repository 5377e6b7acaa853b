"""REST: what the spec says must hold."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Budget
from outrider.drafters.copying.rest import Rest
from outrider.memories.corpus import Corpus
from outrider.memories.store import StorePage
from outrider.policies import FixedTree
from tests.drafters.copying.copy_rigs import (
    FAMILY,
    begin,
    check_equality,
    counting,
    propose,
    tokens,
)
from tests.exactness.setups.rigs import PROMPTS, outputs, run, stage

pytestmark = pytest.mark.method("rest")


def twin(documents, text: list[int], nodes: int, depth: int, ends=()) -> list[int]:
    """Counts of the most frequent prefixes of all continuations of the longest match."""
    for n in range(min(16, len(text)), 1, -1):
        gram, counts = text[-n:], Counter()
        found = False
        for document in documents:
            for i in range(len(document) - n + 1):
                if document[i : i + n] == gram:
                    found = True
                    path: list[int] = []
                    for token in document[i + n : i + n + depth]:
                        path.append(token)
                        counts[tuple(path)] += 1
                        if token in ends:
                            break
        if found:
            return sorted(counts.values(), reverse=True)[:nodes]
    return []


@given(
    documents=st.lists(st.lists(st.integers(0, 2), max_size=40), min_size=1, max_size=3).filter(
        any
    ),
    prompt=st.lists(st.integers(0, 2), min_size=1, max_size=8),
    tail=st.lists(st.integers(0, 2), max_size=3),
    nodes=st.integers(1, 70),
    depth=st.integers(1, 10),
    ends=st.sampled_from([(), (0,)]),
)
def test_the_most_frequent_nodes_of_all_continuations(
    documents, prompt, tail, nodes, depth, ends
) -> None:
    """Spec B2 (d): equals brute force, prefix-closed, at most 64 nodes."""
    drafter = Rest(corpus=Corpus.build(documents))
    state = begin(drafter, prompt, end_ids=ends)
    [draft] = [propose(drafter, state, tail, depth, nodes)]
    expected = twin(documents, prompt + tail, min(nodes, 64), depth, ends)
    assert len(draft) == len(expected) <= 64
    paths: list[tuple[int, ...]] = []
    for i, parent in enumerate(draft.parents.tolist()):
        assert parent < i
        paths.append((*(paths[parent] if parent >= 0 else ()), tokens(draft)[i]))
    assert len(set(paths)) == len(paths)
    if len(draft):
        length, flat = draft.match, prompt + tail
        counts = []
        for path in paths:
            gram = [*flat[-length:], *path]
            n = len(gram)
            counts.append(
                sum(d[i : i + n] == gram for d in documents for i in range(len(d) - n + 1))
            )
        assert counts == expected


def test_the_longest_match_wins_and_tells_its_length() -> None:
    corpus = Corpus.build([[1, 2, 3, 4, 9], [7, 3, 4, 8], [6, 3, 4, 8]])
    draft = propose(Rest(corpus=corpus), begin(Rest(corpus=corpus), [1, 2, 3, 4]), size=3)
    assert (tokens(draft), draft.match, draft.origin) == ([9], 4, "rest3")
    draft = propose(Rest(corpus=corpus), begin(Rest(corpus=corpus), [5, 3, 4]), size=3)
    assert (tokens(draft), draft.match, draft.origin) == ([8, 9], 2, "rest2")
    assert draft.score == pytest.approx(1.0)
    assert draft.parents.tolist() == [-1, -1]


def test_short_texts_shares_and_ends_of_documents() -> None:
    drafter = Rest(corpus=Corpus.build([[1, 2, 3], [4, 5]]))
    assert not len(propose(drafter, begin(drafter, [1])))
    assert not len(propose(drafter, begin(drafter, [4, 5]))), "the document ends"
    state = begin(drafter, [1])
    drafter._commit(state, [2])
    assert tokens(propose(drafter, state)) == [3]
    assert tokens(propose(drafter, state, tail=[1, 2])) == [3]
    off = Budget(depth=5, nodes=5, shares={"rest2": 0})
    [draft] = drafter.propose([state], [NO_IDS], [off])
    assert not len(draft)
    long = begin(drafter, [9] * 40 + [1])
    assert len(long.recent) == 16
    drafter._commit(long, [2] * 40)
    assert len(long.recent) == 16


def corpus_of(seed: int) -> Corpus:
    """What the tabular target itself writes, from other prompts."""
    from outrider.drafters import NoDrafter

    options = {"temperature": 0.9, "max_new_tokens": 200, "seed": seed}
    return Corpus.build(
        [list(o) for o in outputs(run(stage(FAMILY.target, NoDrafter()), PROMPTS, **options))]
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "policy", [FixedTree(depth=4, nodes=12), pytest.param(None, marks=pytest.mark.slow)]
)
def test_drafted_equals_undrafted(policy) -> None:
    assert check_equality(Rest(corpus=corpus_of(77), shortest=1, hits=32), policy) > 100


def test_copies_are_accepted_from_a_mapped_store(tmp_path: Path) -> None:
    page = StorePage(kind="rest", fingerprint="f", vocab_size=7, tokens=49, documents=1)
    Corpus.build([[*range(7)] * 7]).write(tmp_path / "store", page)
    drafter = Rest(corpus=Corpus.open(tmp_path / "store", fingerprint="f"))
    [g] = run(stage(counting(), drafter, window=9), [(0,)], max_new_tokens=100)
    assert g.output == [(i + 1) % 7 for i in range(100)]
    assert g.counters.accepted == g.counters.drafted == g.counters.sources["rest"] > 60
    assert set(g.counters.tallies) <= set(drafter.origins)


@pytest.mark.parametrize(
    "options",
    [
        {"shortest": 0},
        {"shortest": 5, "longest": 4},
        {"following": 17},
        {"hits": 0},
        {"nodes": 0},
        {"levels": (2, 1)},
    ],
)
def test_bad_options_are_refused(options) -> None:
    with pytest.raises(OptionError):
        Rest(corpus=Corpus.build([[1, 2]]), **options)
