"""`outrider methods`, and methods by name on the command line."""

import pytest

import outrider
from outrider.core.types import Exactness
from outrider.strategy.catalogue import KINDS, names, records
from tests.cli.conftest import Family, Run
from tests.strategy.named import promise, ways

LENGTH = ("--max-new-tokens", "12", "--seed", "3", "--raw")


def test_every_method_is_listed(run: Run) -> None:
    outcome = run("methods")
    assert (outcome.code, outcome.err) == (0, "")
    for kind in KINDS:
        heading = "learn" if kind == "learner" else kind  # the option of the command line
        assert any(line.removeprefix("--") == heading for line in outcome.out.splitlines())
        for one in records(kind):
            assert f"  {one.name} " in outcome.out and one.summary in outcome.out
            assert str(one.paper or "") in outcome.out


def test_the_list_as_json(run: Run) -> None:
    found = run("methods", "--json").json
    assert {kind: list(them) for kind, them in found.items()} == {k: names(k) for k in KINDS}
    for facts in found["drafter"].values():
        assert set(facts) == {"summary", "promise", "needs", "memory", "paper", "url", "options"}
        assert facts["promise"] == Exactness.IDENTICAL
    assert list(run("methods", "--kind", "rule", "--json").json) == ["rule"]


def test_one_method_shows_its_options(run: Run) -> None:
    outcome = run("methods", "switch")
    assert "at_least=5 (a number)" in outcome.out and "SAM-Decoding" in outcome.out
    assert "lookup" not in outcome.out


@pytest.fixture(scope="module")
def plain(family: Family) -> list[int]:
    """The target's text."""
    target = outrider.load(str(family.target), mode="none")
    return list(target.generate("abcabcabc", max_new_tokens=12, seed=3).token_ids)


OF_LAYERS = ("drafter swift", "drafter skip")
"""The models of this family have two layers, of which none can be left out."""


@pytest.mark.parametrize("way", [name for name in ways() if name not in OF_LAYERS])
def test_each_writes_the_targets_text(way: str, plain: list[int], family: Family, run: Run) -> None:
    options = ways()[way]
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    drafted = run("generate", "abcabcabc", *family.three, *LENGTH, *words, "--json").json
    assert drafted["speculation"]["exactness"] == promise(options)
    if promise(options) == "identical":
        assert drafted["token_ids"] == plain


@pytest.mark.parametrize("way", OF_LAYERS)
def test_a_model_of_two_layers_has_none_to_leave_out(way: str, family: Family, run: Run) -> None:
    drafter = way.removeprefix("drafter ")
    outcome = run("generate", "abc", "--target", str(family.target), "--drafter", drafter)
    assert outcome.code == 2 and "layers" in outcome.error


WRONG = {
    "nobody": (("--drafter", "recyclin"), "recycling"),
    "rest": (("--drafter", "rest"), "outrider datastore build"),
    "no store there": (("--drafter", "rest", "--datastore", "nowhere"), "nowhere"),
    "reads none": (("--drafter", "lookup", "--datastore", "x"), "reads none"),
    "tree of copies": (("--drafter", "lookup", "--growth", "eagle2"), "Use drafter model"),
    "no such tree": (("--drafter", "model", "--growth", "eagle"), "eagle2"),
    "nodes of a chain": (("--drafter", "sam", "--num-draft-nodes", "4"), "drafts chains"),
    "no such method": (("--rule", "typicl"), "typical"),
    "no such option": (("--rule", "typical(epsilo=0.2)"), "epsilon"),
    "no number": (("--policy", "confidence(threshold=high)"), "Give a number"),
    "out of range": (("--policy", "confidence(threshold=2)"), "at most 1"),
    "one part missing": (("--drafter", "switch(sam)"), "combines 2 drafters"),
    "unbalanced": (("--drafter", "switch(sam,recycling"), "')' is missing"),
    "growth of a growth": (("--growth", "iid(eagle2)"), "Only drafters"),
    "rule and mode": (("--rule", "typical", "--mode", "fuzzy"), "Give only one of the two"),
    "policy and length": (
        ("--policy", "fixed", "--num-speculative-tokens", "3"),
        "as an option of the policy",
    ),
    "rule and draws": (
        ("--drafter", "model", "--growth", "rsd-s", "--rule", "kseq"),
        "RecursiveRejection",
    ),
    "no distribution": (("--drafter", "suffix", "--mode", "fuzzy"), "has none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_line(case: str, family: Family, run: Run) -> None:
    options, message = WRONG[case]
    outcome = run("generate", "abc", *family.three, *options)
    assert outcome.code == 2 and outcome.out == ""
    assert message in outcome.error
