"""`outrider drafters`, and drafters by name on the command line."""

import pytest

from outrider.drafters.catalogue import FREE, KINDS
from tests.cli.conftest import Family, Run

LENGTH = ("--max-new-tokens", "12", "--seed", "3")


def test_every_drafter_is_listed(run: Run) -> None:
    outcome = run("drafters")
    assert (outcome.code, outcome.err) == (0, "")
    heads = [line.split()[0] for line in outcome.out.splitlines() if not line.startswith(" ")]
    assert heads == list(KINDS)
    for kind in KINDS.values():
        assert kind.summary in outcome.out and kind.paper in outcome.out


def test_the_list_as_json(run: Run) -> None:
    found = run("drafters", "--json").json["drafters"]
    assert list(found) == list(KINDS)
    for facts in found.values():
        assert set(facts) == {"summary", "needs", "memory", "exactness", "tree", "paper"}
        assert facts["exactness"] == "identical"


TOO_FEW_LAYERS = ("swift", "skip")


@pytest.mark.parametrize("drafter", [n for n in FREE if n not in ("rest", *TOO_FEW_LAYERS)])
def test_each_writes_the_targets_text(drafter: str, family: Family, run: Run) -> None:
    target = ("generate", "abcabcabc", "--target", str(family.target), *LENGTH)
    plain = run(*target, "--mode", "none", "--json").json
    drafted = run(*target, "--drafter", drafter, "--json").json
    assert drafted["token_ids"] == plain["token_ids"]


@pytest.mark.parametrize("drafter", TOO_FEW_LAYERS)
def test_a_model_of_two_layers_has_none_to_leave_out(
    drafter: str, family: Family, run: Run
) -> None:
    outcome = run("generate", "abc", "--target", str(family.target), "--drafter", drafter)
    assert outcome.code == 2 and "layers" in outcome.error


WRONG = {
    "nobody": (("--drafter", "recyclin"), "recycling"),
    "rest": (("--drafter", "rest"), "outrider datastore build"),
    "no store there": (("--drafter", "rest", "--datastore", "nowhere"), "nowhere"),
    "reads none": (("--drafter", "lookup", "--datastore", "x"), "reads none"),
    "tree of copies": (("--drafter", "lookup", "--tree", "eagle2"), "grown by drafter model"),
    "no such tree": (("--drafter", "model", "--tree", "eagle"), "eagle2"),
    "nodes of a chain": (("--drafter", "sam", "--num-draft-nodes", "4"), "drafts chains"),
    "no law": (("--drafter", "suffix", "--mode", "fuzzy"), "has none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_clear_line(case: str, family: Family, run: Run) -> None:
    options, message = WRONG[case]
    outcome = run("generate", "abc", *family.three, *options)
    assert outcome.code == 2 and outcome.out == ""
    assert message in outcome.error
