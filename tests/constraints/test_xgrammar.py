"""xgrammar as the engine: used where it is named, and its texts are checked.

It is installed with: pip install xgrammar
"""

import json
import sys

import pytest

import outrider
from outrider.constraints import check_constraint
from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"enum": [7, 70]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
INSTALL = "xgrammar is not installed: pip install xgrammar"
PERSON = Constraint.json_schema(SCHEMA).by("xgrammar")


def test_without_the_package_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "outrider.constraints.xgrammar_engine", raising=False)
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(OptionError, match=r"xgrammar is not installed\. Install it with: pip"):
        check_constraint(PERSON)
    check_constraint(Constraint.json_schema(SCHEMA))


def test_it_enforces_no_schema_as_a_whole() -> None:
    assert not PERSON.enforced and Constraint.json_schema(SCHEMA).enforced
    assert Constraint.regex("a").by("xgrammar").enforced
    with pytest.raises(OptionError, match=r"unknown engine of grammars .outlines"):
        Constraint.regex("a").by("outlines")  # pyright: ignore[reportArgumentType]


def test_drafted_equals_undrafted() -> None:
    pytest.importorskip("xgrammar", reason=INSTALL)
    drafted = outrider.load("tiny", drafter="auto")
    plain = outrider.load("tiny", drafter="none")
    for seed in range(6):
        made = [
            gen.generate("A person:", constraint=PERSON, temperature=0.8, seed=seed)
            for gen in (drafted, plain)
        ]
        assert made[0].token_ids == made[1].token_ids
        assert made[0].validated and json.loads(made[0].text)["age"] in (7, 70)


def test_what_it_does_not_read_is_refused() -> None:
    pytest.importorskip("xgrammar", reason=INSTALL)
    gen = outrider.load("tiny", drafter="none")
    with pytest.raises(OptionError, match="xgrammar does not read this constraint"):
        gen.generate("x", constraint=Constraint.choice(["a", "b"]).by("xgrammar"))
