"""Every method through `load`: by name with a real checkpoint, with options, and as an object."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

import outrider
from outrider.acceptance import Typical
from outrider.core.errors import OptionError, StrategyError
from outrider.drafters import Fallback, Lookup, Merge, Sam, Switch, TokenRecycling
from outrider.drafters.neural.growth import IidTree
from outrider.drafters.statistics.recorded import Recorded
from outrider.models.wrappers.skipping import SkippingModel
from outrider.policies import ConfidenceStop, FixedLength
from outrider.strategy.catalogue import drafter_records
from tests.strategy.named import promise, ways

FREE = [one.name for one in drafter_records() if one.free]
PROMPT = "Once upon a time there was a dog. Once upon a time there was"
WRITE: dict[str, Any] = {"max_new_tokens": 24, "seed": 3, "temperature": 0.7}


@cache
def alone() -> tuple[int, ...]:
    return outrider.load("tiny", drafter="none", threads=1).generate(PROMPT, **WRITE).token_ids


BEYOND = [name for name, way in ways().items() if way.get("drafter") not in FREE]
"""The drafters without a model are run by name on the command line (tests/cli/test_methods.py)."""


@pytest.mark.parametrize("way", BEYOND)
def test_by_name(way: str) -> None:
    options = ways()[way]
    result = outrider.load("tiny", threads=1, **options).generate(PROMPT, **WRITE)
    assert len(result.token_ids) == 24
    assert result.to_dict()["speculation"]["exactness"] == promise(options)
    if promise(options) == "identical":
        assert result.token_ids == alone()


OBJECTS: dict[str, dict[str, Any]] = {
    "drafter": {"drafter": TokenRecycling()},
    "switch": {"drafter": Switch(first=Sam(), second=TokenRecycling(), at_least=3)},
    "merge": {"drafter": Merge(first=TokenRecycling(), second=Lookup(min_ngram=1))},
    "fallback": {"drafter": Fallback(first=Sam(), second=TokenRecycling())},
    "recorded": {"drafter": Recorded(drafter=TokenRecycling())},
    "policy": {"policy": ConfidenceStop(threshold=0.2)},
    "fixed": {"drafter": TokenRecycling(), "policy": FixedLength(2)},
    "growth": {"drafter": "model", "growth": IidTree(samples=2)},
}


@pytest.mark.parametrize("case", OBJECTS)
def test_as_an_object(case: str) -> None:
    result = outrider.load("tiny", threads=1, **OBJECTS[case]).generate(PROMPT, **WRITE)
    assert result.token_ids == alone()


def test_a_rule_as_an_object() -> None:
    generator = outrider.load("tiny", drafter=TokenRecycling(), rule=Typical(), threads=1)
    result = generator.generate(PROMPT, **WRITE).to_dict()
    assert result["speculation"]["exactness"] == "lossy"
    assert result["speculation"]["mode"] == "typical"


def test_recorded_counts_make_a_shape(tmp_path: Path) -> None:
    """Counts of a large tree, saved; the best shape by them drafts the same text."""
    recorded = Recorded(drafter=TokenRecycling())
    outrider.load("tiny", drafter=recorded, num_draft_nodes=60).generate(PROMPT, **WRITE)
    file = tmp_path / "counts.json"
    recorded.statistics.save(file)
    shaped = outrider.load("tiny", drafter=f"recycling(shape={file})", threads=1)
    drafter = shaped.strategy.drafter
    assert isinstance(drafter, TokenRecycling) and drafter.template.paths[0] == (0,)
    assert len(drafter.template) < len(TokenRecycling().template)
    assert shaped.generate(PROMPT, **WRITE).token_ids == alone()


def test_fewer_layers_write_another_text() -> None:
    """Unified Layer Skipping by option and around a built model: lossy, and the same text."""
    generator = outrider.load("tiny", drafter="none", layer_skipping=1.5, threads=1)
    result = generator.generate(PROMPT, **WRITE)
    assert result.token_ids != alone()
    assert result.to_dict()["speculation"]["exactness"] == "lossy"
    drafted = outrider.load("tiny", layer_skipping=1.5, threads=1).generate(PROMPT, **WRITE)
    assert drafted.token_ids == result.token_ids
    whole = outrider.load("tiny", drafter="none", threads=1)
    built = SkippingModel(whole.strategy.target, speedup=1.5)
    by_hand = outrider.load(built, drafter="lookup", tokenizer=whole.tokenizer)
    assert by_hand.generate(PROMPT, **WRITE).token_ids == result.token_ids


def test_a_strategy_in_words() -> None:
    strategy = outrider.load("tiny", drafter="switch(sam,tree(dyspec),at_least=3)").strategy
    lines = strategy.describe().splitlines()
    assert len(lines) <= 6 and "switch(sam,tree(dyspec),at_least=3)" in lines[3]
    assert "models   draft" in lines[-1]
    assert len(repr(strategy)) < 200


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no drafter": ({"drafter": 3}, "drafter is 3. Give a name"),
    "no rule": ({"rule": TokenRecycling()}, "rule is TokenRecycling"),
    "no policy": ({"policy": object()}, "policy is <object"),
    "no growth": ({"growth": 2, "drafter": "model"}, "growth is 2"),
    "an unknown part": ({"drafter": "switch(sam,recyclin)"}, "recycling"),
    "options first": ({"drafter": "switch(at_least=5,sam,recycling)"}, "options come last"),
    "twice": ({"drafter": "sam(handicap=1,handicap=2)"}, "given twice"),
    "garbage": ({"drafter": "sam)"}, "is not expected"),
    "empty": ({"drafter": ""}, "a name is missing"),
    "two stores": ({"drafter": "switch(sam,rest)", "datastore": "x"}, "different kinds"),
    "adaptive sizes": ({"policy": "expected-gain", "mode": "distribution"}, "needs fixed sizes"),
    "adaptive and a rule": ({"policy": "expected-gain", "rule": "rejection"}, "needs fixed sizes"),
    "skipping": ({"layer_skipping": 0.5}, "layer_skipping is 0.5"),
    "too much skipping": ({"layer_skipping": 9.0}, "9"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_line(case: str) -> None:
    options, message = WRONG[case]
    with pytest.raises(OptionError) as refusal:
        outrider.load("tiny", **options)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_rule_that_can_not_judge_the_drafts() -> None:
    with pytest.raises(StrategyError, match="KSeq"):
        outrider.load("tiny", drafter="model", growth="rsd-s", rule="kseq")
