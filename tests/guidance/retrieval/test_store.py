"""Stores of logits: written whole, read back equal, and refused when they are damaged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from outrider.core.errors import OptionError, StoreError
from outrider.guidance.retrieval import building, store
from outrider.guidance.retrieval.building import Answered, read_answers, stored
from outrider.guidance.retrieval.store import LogitStore, Origin

pytestmark = pytest.mark.method("caad")
ORIGIN = Origin(model="m" * 16, tokenizer="t" * 16, vocab_size=300, layer=2, answers=1)


@pytest.fixture
def small() -> LogitStore:
    generator = torch.Generator().manual_seed(0)
    states, logits = (torch.randn(3, size, generator=generator) for size in (8, 300))
    return stored(states, logits, ORIGIN)


def test_the_largest_logits_are_kept_above_the_last_one() -> None:
    logits = torch.arange(300.0)[None]
    found = stored(torch.zeros(1, 4), logits, ORIGIN)
    assert found.tokens[0, :3].tolist() == [299, 298, 297] and found.tokens.shape == (1, 256)
    assert float(found.logits[0, 0]) == 255.0 and float(found.logits[0, -1]) == 0.0


def test_a_store_is_read_back_as_it_was(small: LogitStore, tmp_path: Path) -> None:
    file = tmp_path / "facts.safetensors"
    small.save(file)
    again = LogitStore.open(file)
    assert again.digest == small.digest and again.origin == ORIGIN and len(again) == 3
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(StoreError, match="already exists"):
        small.save(file)
    replace(small, origin=replace(ORIGIN, layer=1)).save(file, force=True)
    assert LogitStore.open(file).origin.layer == 1


def test_a_store_that_cannot_be_written_leaves_nothing(
    small: LogitStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(StoreError, match="cannot be written: No space left on device"):
        small.save(tmp_path / "facts.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_digest_covers_all_that_a_store_holds(small: LogitStore) -> None:
    others = [
        replace(small, states=small.states + 1.0),
        replace(small, tokens=small.tokens.roll(1, dims=1)),
        replace(small, logits=small.logits * 2.0),
        replace(small, origin=replace(ORIGIN, layer=1)),
    ]
    assert len({one.digest for one in (small, *others)}) == 5


def test_a_file_that_is_no_store_is_refused(small: LogitStore, tmp_path: Path) -> None:
    file = tmp_path / "facts.safetensors"
    with pytest.raises(StoreError, match="no store of logits at"):
        LogitStore.open(file)
    save_file({"states": small.states}, file)
    with pytest.raises(StoreError, match="is not a store of logits"):
        LogitStore.open(file)
    small.save(file, force=True)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StoreError, match="is damaged"):
        LogitStore.open(file)
    with pytest.raises(StoreError, match="is a folder"):
        small.save(tmp_path)
    with pytest.raises(StoreError, match="there is no folder"):
        small.save(tmp_path / "none" / "facts")


def test_tensors_that_do_not_fit_are_refused(small: LogitStore) -> None:
    broken = small.states.clone()
    broken[0, 0] = float("nan")
    for change, problem in (
        ({"states": small.states[:2]}, "do not fit together"),
        ({"states": small.states.double()}, "other types"),
        ({"states": broken}, "not finite"),
        ({"tokens": small.tokens + 250}, "outside the vocabulary"),
        ({"tokens": small.tokens - 250}, "outside the vocabulary"),
        ({"logits": small.logits - 1.0}, "below 0"),
        ({"logits": small.logits[:, :5]}, "other shapes"),
    ):
        with pytest.raises(StoreError, match=problem):
            replace(small, **change)


def test_a_store_is_bounded(monkeypatch: pytest.MonkeyPatch, small: LogitStore) -> None:
    monkeypatch.setattr(store, "MOST", 2)
    with pytest.raises(StoreError, match="it has 3 contexts, and at most 2"):
        replace(small)


def test_too_many_answers_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.guidance.retrieval.toys import Numbers

    class Unread:
        """A model that must not be read."""

        class hidden_states:
            num_layers = 2

    monkeypatch.setattr(building, "MOST", 2)
    with pytest.raises(OptionError, match="have 3 tokens with their ends, and a store holds 2"):
        building.build_store(Unread(), Numbers(), [Answered("1", "2 3")])  # type: ignore[arg-type]


def test_answers_are_read_from_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_text(
        '{"question": "Who?", "answer": "She."}\n\n{"prompt": "Where?", "response": "Here."}\n'
    )
    assert read_answers(file) == [Answered("Who?", "She."), Answered("Where?", "Here.")]
    for line in ('{"question": "Who?"}', '{"question": "", "answer": "x"}', "[1]", "nothing"):
        file.write_text(line + "\n")
        with pytest.raises(OptionError, match="line 1 of"):
            read_answers(file)
    file.write_text("\n")
    with pytest.raises(OptionError, match="holds no answers"):
        read_answers(file)
