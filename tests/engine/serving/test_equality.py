"""Promise 2: the same request gives the same text, whatever else is being served."""

import random
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider.engine.generator import Generator
from outrider.engine.serving import scheduler
from tests.engine.serving.setups import Desk

WORDS = ["once", "upon", "time", "there", "little", "river", "near", "the", "old", "mill", "fox"]


@pytest.fixture(scope="module")
def tiny() -> Generator:
    return outrider.load("tiny", threads=1)


def prompts(generator: Generator, count: int, seed: int) -> list[tuple[int, ...]]:
    """Prompts of which several begin alike."""
    chance = random.Random(seed)
    assert generator.tokenizer is not None
    common = [" ".join(chance.choices(WORDS, k=30)) for _ in range(3)]
    texts = [
        f"{chance.choice(common)} {' '.join(chance.choices(WORDS, k=chance.randint(1, 40)))}"
        for _ in range(count)
    ]
    return [generator.tokenizer.encode(text) for text in texts]


def options(chance: random.Random, number: int) -> dict[str, Any]:
    """Mixed parameters."""
    made: dict[str, Any] = {
        "max_new_tokens": chance.randint(1, 40),
        "seed": number,
        "temperature": chance.choice([0.0, 0.7, 1.0]),
        "ignore_eos": chance.random() < 0.5,
    }
    if chance.random() < 0.3:
        made["logprobs"] = 2
    if chance.random() < 0.3:
        made["stop"] = ("the",)
    if chance.random() < 0.3:
        made["repetition_penalty"] = 1.2
    if chance.random() < 0.3:
        made["top_p"] = 0.9
    return made


def check_mixed(generator: Generator, count: int, seed: int, **settings: Any) -> Desk:
    """Serve requests that join and leave at random; each must equal its single run."""
    chance = random.Random(seed)
    desk = Desk(generator, **settings)
    wanted = [(ids, options(chance, i)) for i, ids in enumerate(prompts(generator, count, seed))]
    waiting, cancelled = list(range(count)), set()
    while waiting or desk.engine.busy:
        for number in waiting[: chance.choice([0, 0, 1, 2, 8])]:
            ids, own = wanted[number]
            who = {"_principal": chance.choice("ab"), "_draft": chance.random() < 0.8}
            desk.submit(str(number), ids, n=1 + (number % 7 == 0), **own, **who)
            waiting.remove(number)
        if chance.random() < 0.02:
            number = chance.randrange(count)
            desk.engine.cancel(str(number))
            cancelled.add(number)
        desk.engine.step()
    for number, (ids, own) in enumerate(wanted):
        samples = 1 + (number % 7 == 0)
        singles = generator.generate(list(ids), n=samples, **own)
        for index, single in enumerate(singles if isinstance(singles, list) else [singles]):
            compare(desk, str(number), index, single, number in cancelled)
    return desk


def compare(desk: Desk, id: str, index: int, single: Any, cancelled: bool) -> None:
    ended, pieces = desk.ended(id, index), desk.pieces(id, index)
    result = ended.result
    assert result is not None
    if cancelled and result.finish_reason == "cancelled":
        assert result.token_ids == single.token_ids[: len(result.token_ids)]
        return
    assert result.token_ids == single.token_ids
    assert result.text == single.text
    assert result.finish_reason == single.finish_reason
    assert result.logprobs == single.logprobs
    assert "".join(piece.text for piece in pieces) == single.text
    assert sum((piece.token_ids for piece in pieces), ()) == single.token_ids
    assert sum((piece.logprobs for piece in pieces), ()) == single.logprobs
    assert "".join(text for piece in pieces for text, _ in piece.spans) == single.text


@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_seqs": 8},
        {"max_num_seqs": 4, "cache_tokens": 700},
        {"max_num_seqs": 3, "step_ms": 0.001, "prefixes": 2},
    ],
)
def test_mixed_requests_have_the_texts_of_their_single_runs(
    tiny: Generator, settings: dict[str, Any]
) -> None:
    desk = check_mixed(tiny, 24, 1, **settings)
    counters = desk.engine.state.counters
    assert counters["prefix_hits"] > 0
    if "cache_tokens" in settings:
        assert counters["preemptions"] > 0
    assert desk.engine.state.running == desk.engine.state.waiting == 0


def test_requests_that_a_draft_model_drafts_for_have_the_texts_of_their_single_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The draft model reads prompts in parts, within the rows of each step, and gives up caches
    where memory is short."""
    monkeypatch.setattr(scheduler, "HEADROOM", 8)  # so that texts outgrow their slots
    drafted = outrider.load("tiny", threads=1, drafter="model", policy="fixed")
    desk = check_mixed(drafted, 8, 2, max_num_seqs=3, step_ms=0.001)
    assert desk.engine.state.counters["accepted_tokens"] > 0
    small = Desk(drafted, max_num_seqs=2, cache_tokens=256)
    texts = {id: (sum(prompts(drafted, 4, n), ())[:120]) for n, id in enumerate("ab")}
    for id, ids in texts.items():
        small.submit(id, ids, max_new_tokens=30, ignore_eos=True)
    small.run()
    assert small.engine.state.counters["thinned"] == 2
    for id, ids in texts.items():
        single = drafted.generate(list(ids), max_new_tokens=30, ignore_eos=True)
        assert small.result(id).token_ids == single.token_ids


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{"max_num_seqs": 16}, {"max_num_seqs": 8, "cache_tokens": 2500, "step_ms": 5.0}],
)
def test_a_real_model_serves_64_requests_with_the_texts_of_their_single_runs(
    smollm2: Path, settings: dict[str, Any]
) -> None:
    desk = check_mixed(outrider.load(str(smollm2), threads=2), 64, 5, **settings)
    assert desk.engine.state.counters["prefix_hits"] > 0
    assert desk.engine.state.counters["accepted_tokens"] > 0


@pytest.mark.slow
def test_64_requests_have_the_texts_of_their_single_runs(tiny: Generator) -> None:
    for seed in range(10):
        check_mixed(tiny, 64, seed, max_num_seqs=1 + 3 * seed, cache_tokens=700 + 200 * seed)
