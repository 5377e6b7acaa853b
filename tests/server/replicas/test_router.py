"""The choice of a replica, what is delivered of a second attempt, and sums of states."""

import pickle
import sys
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider.cli.commands import serve as command
from outrider.core.errors import MissingExtraError, OptionError
from outrider.core.types import Prompt
from outrider.engine.serving.messages import Ended, EngineState, Piece, Submission
from outrider.engine.serving.settings import ServingSettings
from outrider.sampling import SamplingParams
from outrider.server.replicas.router import BLOCK, Router, RouterSettings, hashes
from outrider.server.replicas.shares import share, threads_of
from outrider.server.replicas.states import Report, merged, moved, retired, state_of
from outrider.server.replicas.transcript import DivergedError, Transcript

NAMES = ("a", "b", "c")
BLOCKS = st.lists(st.sampled_from((1, 1, 1, 2)), max_size=6)
"""First tokens of blocks, so that texts often begin alike."""
IDS = st.builds(
    lambda firsts, rest: [*(t for f in firsts for t in (f, *range(BLOCK - 1))), *range(rest)],
    BLOCKS,
    st.integers(0, BLOCK - 1),
)
WORK = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 40), max_size=3)
READ = st.lists(st.tuples(st.sampled_from(NAMES), IDS, st.sampled_from(("", "x"))), max_size=6)


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Full blocks of the common beginning, in tokens."""
    same = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    same = min(len(one), len(other)) if same is None else same
    return same // BLOCK * BLOCK


@given(work=WORK, ids=IDS, salt=st.sampled_from(("", "x")), read=READ)
def test_the_choice_follows_the_rules(
    work: dict[str, float], ids: list[int], salt: str, read: list[tuple[str, list[int], str]]
) -> None:
    router = Router()
    read = [*read, ("a", ids[: len(ids) // 2], salt)]
    for name, text, own in read:
        router.remember(name, hashes(text, own))
    blocks = hashes(ids, salt)
    found = router.choose(work, blocks, len(ids))
    if not work:
        assert found is None
        return
    assert found is not None and found == router.choose(work, blocks, len(ids))
    least = min(work.values())
    known = {
        name: max([common(ids, text) for n, text, own in read if (n, own) == (name, salt)] or [0])
        for name in work
    }
    longest = max(known.values())
    balanced = max(work.values()) - least <= router.settings.imbalance
    if balanced and longest and longest >= 0.1 * len(ids):
        assert known[found] == longest
        assert work[found] == min(work[name] for name in work if known[name] == longest)
    else:
        assert work[found] == least
        assert found == next(name for name in work if work[name] == least)


def test_texts_of_another_salt_are_unknown() -> None:
    router = Router()
    ids = list(range(64))
    own, other = hashes(ids, "secret"), hashes(ids, "")
    router.remember("b", own)
    assert router.choose({"a": 0, "b": 1}, own, 64) == "b"
    assert router.choose({"a": 0, "b": 1}, other, 64) == "a"
    assert not {*own} & {*other}
    router.forget("b")
    assert router.choose({"a": 0, "b": 1}, own, 64) == "a"


@given(ids=IDS, more=IDS, salt=st.sampled_from(("", "x")))
def test_hashes_of_a_longer_text_begin_with_those_of_its_beginning(
    ids: list[int], more: list[int], salt: str
) -> None:
    known, whole = hashes(ids, salt), hashes([*ids, *more], salt)
    assert len(known) == len(ids) // BLOCK
    assert len(whole) == (len(ids) + len(more)) // BLOCK
    assert whole[: len(known)] == known
    assert hashes([*ids, *more], salt, known) == whole


@given(texts=st.lists(IDS, max_size=8), most=st.integers(1, 20))
def test_memory_is_bounded_and_keeps_what_is_new(texts: list[list[int]], most: int) -> None:
    router = Router(RouterSettings(blocks=most))
    for text in texts:
        blocks = hashes(text, "")
        router.remember("a", blocks)
        assert len(router._known["a"]) <= most
        if len(blocks) <= most:
            assert router._common("a", blocks) == len(text) // BLOCK * BLOCK


@pytest.mark.parametrize("wrong", [{"imbalance": -1}, {"least_share": 2}, {"blocks": 0}])
def test_settings_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        RouterSettings(**wrong)  # pyright: ignore[reportArgumentType]


def cut(text: str, cuts: Sequence[int], id: str, lag: int) -> list[Piece]:
    """Return a text of one token for each character in pieces; characters come `lag` later."""
    found: list[Piece] = []
    bounds = sorted({0, len(text), *(at % (len(text) + 1) for at in cuts)})
    shown = 0
    for start, end in pairwise(bounds):
        until = end if end == len(text) else max(end - lag, shown)
        part, shown = text[shown:until], until
        spans = tuple((one, "draft" if at % 2 else "target") for at, one in enumerate(part))
        ids = tuple(map(ord, text[start:end]))
        sources = ("target",) * len(ids)
        ends = tuple(range(start + 1, end + 1))
        piece = Piece(id=id, index=0, text=part, token_ids=ids, sources=sources, ends=ends)
        found.append(Piece(**{**_fields(piece), "spans": spans}))
    return found


def _fields(piece: Piece) -> dict[str, object]:
    return {name: getattr(piece, name) for name in Piece.__dataclass_fields__}


CUTS = st.lists(st.integers(0, 100), max_size=6)


@given(
    text=st.text("ab", min_size=1, max_size=30),
    attempts=st.lists(st.tuples(CUTS, st.integers(0, 7), st.integers(0, 3)), max_size=3),
    last=CUTS,
)
def test_attempts_are_delivered_as_one_text(
    text: str, attempts: list[tuple[list[int], int, int]], last: list[int]
) -> None:
    transcript = Transcript("r", 1)
    pieces: list[Piece] = []
    for cuts, count, lag in attempts:
        transcript.restart()
        pieces += transcript.take(cut(text, cuts, "r.x", lag)[:count])  # pyright: ignore
    transcript.restart()
    pieces += transcript.take(cut(text, last, "r", 1))  # pyright: ignore
    assert {p.id for p in pieces} == {"r"}
    assert "".join(p.text for p in pieces) == text
    assert "".join(map(chr, (t for p in pieces for t in p.token_ids))) == text
    assert [e for p in pieces for e in p.ends] == list(range(1, len(text) + 1))
    assert all("".join(part for part, _ in p.spans) == p.text for p in pieces)
    assert all(len(p.sources) == len(p.token_ids) for p in pieces)
    assert all(p.text or p.token_ids for p in pieces)


@given(text=st.text("ab", min_size=2, max_size=20), at=st.integers(0, 100), cuts=CUTS)
def test_another_text_is_noticed(text: str, at: int, cuts: list[int]) -> None:
    at %= len(text)
    other = text[:at] + ("a" if text[at] == "b" else "b") + text[at + 1 :]
    transcript = Transcript("r", 1)
    transcript.take(cut(text, [], "r", 0))
    transcript.restart()
    with pytest.raises(DivergedError):
        transcript.take(cut(other, cuts, "r", 0))


def test_a_text_that_ends_too_early_is_noticed() -> None:
    transcript = Transcript("r", 1)
    transcript.take(cut("abab", [], "r", 0))
    transcript.restart()
    result = SimpleNamespace(finish_reason="stop")
    end = Ended(id="r", index=0, result=result)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DivergedError):
        transcript.take([*cut("ab", [], "r", 0), end])
    assert transcript.open == [0]


COUNTS = st.dictionaries(st.sampled_from(("tokens", "steps")), st.integers(0, 9))
STATES = st.builds(
    EngineState,
    running=st.integers(0, 9),
    cache_size=st.integers(0, 9),
    heartbeat=st.floats(0, 9),
    counters=COUNTS,
    accepted_at=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    sources=COUNTS,
    guard_switches=st.dictionaries(st.just(("off", "slow")), st.integers(0, 9)),
    guard_states=st.dictionaries(st.sampled_from("12"), st.sampled_from(("on", "off", "failed"))),
)


@given(states=st.lists(STATES, max_size=3), lost=STATES)
def test_totals_do_not_shrink_when_a_replica_is_lost(
    states: list[EngineState], lost: EngineState
) -> None:
    before = merged([*states, lost], EngineState())
    after = merged(states, retired(EngineState(), lost))
    assert after.counters == before.counters and after.sources == before.sources
    assert after.accepted_at == before.accepted_at
    assert after.guard_switches == before.guard_switches
    for sizes, state in before.guard_states.items():
        shown = {s.guard_states[sizes] for s in (*states, lost) if sizes in s.guard_states}
        assert state == next(s for s in ("failed", "off", "on") if s in shown)
    assert sum(after.accepted_at) == sum(sum(s.accepted_at) for s in (*states, lost))
    assert after.running == before.running - lost.running
    assert after.cache_size == before.cache_size - lost.cache_size


def test_times_cross_clocks() -> None:
    one = Submission(
        id="r",
        prompt=Prompt(token_ids=(1,)),
        params=SamplingParams(),
        received=10.0,
        begin_by=15.0,
        finish_by=20.0,
    )
    there = pickle.loads(pickle.dumps(moved(one, 1000.0)))
    assert (there.received, there.begin_by, there.finish_by) == (1010.0, 1015.0, 1020.0)
    assert there.first_token_by is None
    report = Report(instance="i", state=EngineState(heartbeat=1005.0), now=1006.0)
    assert state_of(report, 50.0).heartbeat == 49.0


def test_replicas_share_the_machine() -> None:
    settings = ServingSettings(max_num_seqs=16, cache_tokens=1000)
    each = share(settings, 3)
    assert (each.max_num_seqs, each.cache_tokens) == (6, 333)
    assert each.memory_share == pytest.approx(0.5 / 3)
    assert share(ServingSettings(cache_tokens=128), 4).cache_tokens == 128
    assert share(ServingSettings(), 2).cache_tokens is None
    assert (threads_of(2, 4), threads_of(2, 5), threads_of(4, 2)) == (2, 2, 1)
    assert threads_of(1, None) >= 1


def test_ray_is_asked_for_and_is_loaded_for_replicas_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "ray" else name)
    with pytest.raises(MissingExtraError, match=r"outrider\[distributed\]"):
        command._need_server(2)
    command._need_server(None)
    assert "outrider.server.replicas.ray_serve" not in sys.modules
