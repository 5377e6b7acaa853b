"""The option `guard` of `load`, and what results say about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import outrider
from outrider.acceptance import Rejection
from outrider.core.errors import OptionError
from outrider.decoding.stage import SequenceState
from outrider.drafters import Lookup, ModelDrafter, NoDrafter
from outrider.engine.generator import Generator
from outrider.policies import CostSurface, ExpectedGain, FixedLength, Source
from outrider.policies.guard import Guard
from outrider.policies.guard.report import Cause, State, Switch
from outrider.strategy import Strategy

PROMPT = "Once upon a time there was a small cat"


@pytest.fixture(scope="module")
def tiny() -> Generator:
    return outrider.load("tiny", threads=1)


@dataclass
class Learns:
    """A learner that learns nothing."""

    counts: Mapping[str, int] = field(default_factory=dict[str, int])

    def observe(self, *args: Any) -> None:
        """Look at nothing."""

    def note(self, request: Any) -> None:
        """Keep nothing."""

    def swap(self) -> None:
        """Change nothing."""


class Random(Guard):
    """Lets rounds draft at random."""

    def drafts(self, batch: int, kind: Any, *args: Any) -> bool:
        return bool(np.random.default_rng(self._rounds).random() < 0.5)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_switching_changes_no_text_of_a_real_model(tiny: Generator, temperature: float) -> None:
    options: dict[str, Any] = {"temperature": temperature, "seed": 3, "max_new_tokens": 60}
    plain = outrider.load("tiny", threads=1, mode="none").generate(PROMPT, **options)
    mixed = Generator(tiny.strategy, tokenizer=tiny.tokenizer, defaults=tiny.defaults)
    mixed._guard = Random()
    found = mixed.generate(PROMPT, **options)
    assert found.token_ids == plain.token_ids and found.text == plain.text
    assert found.speculation.target.undrafted_rounds > 5 and found.speculation.target.drafted


def test_a_result_tells_the_state(tiny: Generator) -> None:
    found = tiny.generate(PROMPT, max_new_tokens=30, ignore_eos=True)
    report = found.speculation.guard
    assert report is not None and report.state in ("on", "off")
    assert found.to_dict()["speculation"]["guard"] == report.to_dict()
    assert list(report.to_dict()) == ["state", "since", "x", "reason"]
    again = tiny.generate([PROMPT, "The dog"], max_new_tokens=4)
    assert tiny.guard_of(tiny.strategy) is tiny.guard_of(tiny.strategy)
    assert all(r.speculation.guard is not None for r in again)


def test_requests_of_a_generator_share_one_guard(tiny: Generator) -> None:
    own = Generator(tiny.strategy, tokenizer=tiny.tokenizer, defaults=tiny.defaults)
    for _ in range(3):
        own.generate(PROMPT, max_new_tokens=16, ignore_eos=True)
    guard = own.guard_of(own.strategy)
    assert guard is not None
    rounds = guard._rounds
    assert rounds > 3 * 2
    own.generate(PROMPT, max_new_tokens=8, ignore_eos=True)
    assert guard._rounds > rounds


def test_without_a_guard_or_a_drafter_there_is_no_report(tiny: Generator) -> None:
    off = Generator(tiny.strategy, defaults=tiny.defaults, guard="off")
    assert off.generate([1, 2, 3], max_new_tokens=4).speculation.guard is None
    plain = Generator(tiny.strategy.undrafted, defaults=tiny.defaults)
    assert plain.generate([1, 2, 3], max_new_tokens=4).speculation.guard is None


def test_only_adaptive_budgets_under_match_are_changed(tiny: Generator) -> None:
    target = tiny.strategy.target
    gain = ExpectedGain(verify=CostSurface.of({1: 1.0}), sources=(Source(name="lookup1"),))
    fixed = Strategy(target=target, drafter=Lookup(min_ngram=1), policy=FixedLength(3))
    adaptive = Strategy(target=target, drafter=Lookup(min_ngram=1), policy=gain)
    sampled = Strategy(target=target, drafter=ModelDrafter(model=target), rule=Rejection())
    judged = {
        name: s.guard("on")
        for name, s in {"fixed": fixed, "adaptive": adaptive, "sampled": sampled}.items()
    }
    assert {name: g.judges for name, g in judged.items() if g is not None} == {
        "fixed": False,
        "adaptive": True,
        "sampled": False,
    }
    assert Strategy(target=target, drafter=NoDrafter()).guard("on") is None
    learning = replace(adaptive, learner=Learns()).guard("on")
    assert learning is not None and not learning.judges, "it learns from drafts"
    assert adaptive.guard("off") is None
    warns = adaptive.guard("warn")
    assert warns is not None and warns.mode == "warn"


def test_an_unknown_mode_is_refused_before_models_are_read() -> None:
    with pytest.raises(OptionError, match="guard is 'maybe'"):
        outrider.load("no-such-model", guard="maybe")


def test_a_request_whose_drafter_failed_says_so(tiny: Generator) -> None:
    class Broken(Lookup):
        def propose(self, *args: Any) -> Any:
            raise ValueError("on purpose")

    broken = Strategy(target=tiny.strategy.target, drafter=Broken(min_ngram=1))
    own = Generator(broken, defaults=tiny.defaults)
    found = own.generate([5, 6, 7], max_new_tokens=6, ignore_eos=True)
    report = found.speculation.guard
    assert report is not None and report.state == "failed" and "on purpose" in report.reason
    assert isinstance(own._kept, SequenceState)
    guard = own.guard_of(broken)
    assert guard is not None and guard.report.state == "on", "only this request"


def test_the_note_of_the_command_line() -> None:
    from outrider.cli.ui.render import guard_note

    guard = Guard()
    assert guard_note(None) == guard_note(guard.report) == ""
    watch = guard._watch(1)
    switch: Switch = watch._switched(State.OFF, Cause.SLOW, "a reason")
    assert switch.to == "off"
    assert guard_note(guard.report) == "drafting is off: a reason"
