"""`outrider datastore answers`: from questions and answers to a store that guidance reads."""

import json
from pathlib import Path

import pytest

import outrider
from outrider.core.errors import StoreError
from outrider.guidance.retrieval.store import LogitStore
from outrider.models.sources.families import family
from tests.cli.conftest import Run

LINES = [
    {"question": "Once upon a time", "answer": " there was a cat."},
    {"prompt": "The dog", "response": " was happy."},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "facts.jsonl"
    found.write_text("\n".join(map(json.dumps, LINES)))
    return found


def test_answers_become_a_store_that_changes_texts(run: Run, file: Path, tmp_path: Path) -> None:
    place = tmp_path / "facts.safetensors"
    built = run("datastore", "answers", file, "--out", place, "--target", "tiny", "--layer", 1)
    assert built.code == 0 and "Store of logits" in built.out
    store = LogitStore.open(place)
    assert store.origin.answers == 2 and store.origin.layer == 1 and not store.origin.told
    again = run("datastore", "answers", file, "--out", place, "--target", "tiny")
    assert again.code != 0 and "already exists" in again.err
    rules = f"caad(store={place},least=0,floor=0)"
    sampling = {"max_new_tokens": 12, "temperature": 0.0}
    guided = outrider.load("tiny", mode="none", guidance=rules).generate("The dog", **sampling)
    drafting = outrider.load("tiny", guidance=rules, num_speculative_tokens=3, guard="off")
    drafted = drafting.generate("The dog", **sampling)
    plain = outrider.load("tiny", mode="none").generate("The dog", **sampling)
    assert guided.text == drafted.text != plain.text
    assert drafted.speculation.target.drafted > 0 and str(place) in str(guided.guidance)
    with pytest.raises(StoreError, match="was built with another model"):
        outrider.load(family("tiny")["draft"], mode="none", guidance=rules)


def test_what_can_not_be_built_is_said_in_one_line(run: Run, file: Path, tmp_path: Path) -> None:
    file.write_text('{"question": "Why?"}\n')
    bad = run("datastore", "answers", file, "--out", tmp_path / "x", "--target", "tiny")
    assert bad.code != 0 and "line 1 of" in bad.err
    lost = run("datastore", "answers", file, "--out", tmp_path, "--target", "tiny")
    assert lost.code != 0 and "is a folder" in lost.err
    assert not (tmp_path / "x").exists()
