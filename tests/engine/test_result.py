"""What a request comes back as."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.core import metrics
from outrider.core.counters import Counters
from outrider.core.types import Exactness
from outrider.engine.generator import Generator
from outrider.engine.result import Result, Speculation, spans
from outrider.strategy import PyramidConfig, pyramid
from tests.exactness.setups.rigs import tabular_family
from tests.matrix import matrix

FAMILY: Any = tabular_family(seed=7)
CONFIG: dict[str, Any] = {"num_speculative_tokens": 3, "num_qualified_tokens": 5}


def write(tiers: int, mode: str = "exact", **options: Any) -> Result:
    draft = FAMILY.draft if tiers > 1 else None
    middle = [FAMILY.qualifier, FAMILY.small][: max(tiers - 2, 0)]
    strategy = pyramid(FAMILY.target, draft, middle, PyramidConfig(mode=mode, **CONFIG))
    generator = Generator(strategy, mode=mode)
    return generator.generate([1, 2, 3], **{"max_new_tokens": 30, "temperature": 0.8, **options})


# -- spans -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ends", "sources", "expected"),
    [
        ("abcd", [1, 2, 3, 4], "ddtt", [("ab", "d"), ("cd", "t")]),
        ("abcd", [1, 2, 3, 4], "dtdt", [("a", "d"), ("b", "t"), ("c", "d"), ("d", "t")]),
        ("é", [0, 1], "dt", [("é", "t")]),
        ("aé", [1, 1, 2], "dqt", [("a", "d"), ("é", "t")]),
        ("ab", [1, 2, 5, 7], "dddt", [("ab", "d")]),
        ("a", [3, 3], "dt", [("a", "d")]),
        ("abc", [1, 2], "dt", [("a", "d"), ("bc", "t")]),
        ("abc", [], "", [("abc", "target")]),
        ("", [0, 0], "dt", []),
    ],
    ids=["two", "four", "split", "silent", "cut", "all cut", "tail", "unknown", "empty"],
)
def test_spans(text: str, ends: list[int], sources: str, expected: list[Any]) -> None:
    assert [*spans(text, ends, [*sources])] == expected


@given(
    pieces=st.lists(st.tuples(st.text("abc", max_size=3), st.sampled_from("dqt")), max_size=8),
    cut=st.integers(0, 24),
)
def test_spans_make_up_the_text(pieces: list[tuple[str, str]], cut: int) -> None:
    text = "".join(piece for piece, _ in pieces)[:cut]
    ends = [sum(len(p) for p, _ in pieces[: i + 1]) for i in range(len(pieces))]
    got = [*spans(text, ends, [source for _, source in pieces])]
    assert "".join(piece for piece, _ in got) == text
    assert all(piece for piece, _ in got)
    assert all(a[1] != b[1] for a, b in pairwise(got))
    characters = [source for piece, source in pieces for _ in piece][: len(text)]
    assert [source for piece, source in got for _ in piece] == characters


# -- numbers -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("mode", "tiers"), matrix(["exact", "distribution", "assisted", "fuzzy", "none"], [2, 3, 4])
)
def test_counts_add_up(mode: str, tiers: int) -> None:
    result = write(tiers, mode)
    spec, c = result.speculation, result.speculation.target
    assert c.tokens == result.completion_tokens == len(result.sources) == len(result.changed)
    assert sum(c.sources.values()) == c.tokens and c.changed == sum(result.changed)
    names = [*["qualifier", "qualifier2"][: tiers - 2], "draft"]
    assert list(spec.stages) == ([] if mode == "none" else names)
    for name, counted in spec.stages.items():
        if name != "draft":
            assert counted.tokens == sum(counted.sources.values())
    if mode != "none":
        outer = [c, *(s for n, s in spec.stages.items() if n != "draft")]
        for upper, lower in zip(outer, list(spec.stages.values()), strict=True):
            lower_wrote = lower.tokens if lower.rounds else lower.drafted
            assert upper.drafted == lower_wrote, "what a tier proposed, its verifier has seen"
    assert spec.exactness == {
        "exact": Exactness.IDENTICAL,
        "distribution": Exactness.DISTRIBUTION,
        "none": Exactness.IDENTICAL,
    }.get(mode, Exactness.LOSSY)


@pytest.mark.parametrize(("tiers", "predicts"), [(1, False), (2, True), (3, True), (4, False)])
def test_predicted_speed(tiers: int, predicts: bool) -> None:
    predicted = write(tiers, "none" if tiers == 1 else "exact").speculation
    assert (predicted.predicted_tokens_per_second is not None) == predicts
    if tiers == 2:
        c, draft = predicted.target, predicted.stages["draft"]
        expected = metrics.predicted_two_tier_speed(
            c.seconds["draft"] / draft.forwards,
            c.seconds["verify"] / c.forwards,
            metrics.acceptance_chance(c),
            3,
        )
        assert predicted.predicted_tokens_per_second == expected > 0


def test_seconds_have_all_parts() -> None:
    for tiers in (1, 3):
        result = write(tiers, "none" if tiers == 1 else "exact")
        assert set(result.seconds) == {"prefill", "draft", "verify", "accept", "total"}
        parts = sum(v for k, v in result.seconds.items() if k != "total")
        assert 0 < parts <= result.seconds["total"]
        decoding = result.seconds["total"] - result.seconds["prefill"]
        assert result.tokens_per_second == pytest.approx(30 / decoding)
        assert list(result.token_times) == sorted(result.token_times)


# -- plain data --------------------------------------------------------------------------------


def test_plain_data_survives_json() -> None:
    result = write(3, logprobs=2, seed=9)
    data = result.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["token_ids"] == list(result.token_ids) and data["completion_tokens"] == 30
    assert (data["prompt_tokens"], data["seed"], data["finish_reason"]) == (3, 9, "length")
    assert [lp["token"] for lp in data["logprobs"]] == data["token_ids"]
    assert all(len(lp["top"]) == 2 for lp in data["logprobs"])
    assert "error" not in data and "logprobs" not in write(2).to_dict()


def test_what_is_said_of_drafting() -> None:
    result = write(3)
    said, c = result.speculation.to_dict(), result.speculation.target
    assert said["acceptance_rate"] == c.accepted / c.drafted
    assert said["mean_accepted_length"] == (c.accepted + c.next_tokens) / c.rounds
    assert said["block_efficiency"] == 30 / said["target_forwards"]
    assert said["accepted_at"][0] == c.accepted_at[0] / c.drafted_at[0]
    assert list(said["sources"]) == ["draft", "qualifier", "target"]
    assert sum(said["sources"].values()) == 30
    assert set(said["stages"]) == {"qualifier", "draft"}
    assert (said["mode"], said["exactness"], said["changed_tokens"]) == ("exact", "identical", 0)


def test_nothing_written_is_plain_data_too() -> None:
    empty = Speculation(mode="none", exactness=Exactness.IDENTICAL, target=Counters(), stages={})
    said = empty.to_dict()
    assert said["acceptance_rate"] == said["block_efficiency"] == 0.0
    assert said["sources"] == {"draft": 0, "qualifier": 0, "target": 0}
