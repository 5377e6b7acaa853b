"""Answers are recorded once, and prompts are drawn in proportion."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from outrider.core.errors import OptionError
from outrider.training.heads import answers
from outrider.training.heads.answers import Recorder, record
from outrider.training.heads.data import RecordedTexts, shuffled
from outrider.training.heads.prompts import PromptFile, TrainingPrompt, training_prompts
from tests.training.heads.setups import QUIET, line, numbers_in, prompts


def test_each_prompt_is_answered_once(recorded: Path) -> None:
    assert sorted(numbers_in(recorded)) == [n for n in range(14) if n != 5]
    assert len(list(recorded.iterdir())) == 4
    texts = RecordedTexts(recorded, 288, 3)
    assert {place.kind for place in texts.places} == {"kind0", "kind1"}
    assert all(4 <= place.total - place.prompt <= 14 for place in texts.places)


def test_recording_goes_on_after_an_interruption(recorder: Recorder, tmp_path: Path) -> None:
    """Texts that had not ended are written again; no prompt is answered twice."""

    def cut(left: Iterator[TrainingPrompt]) -> Iterator[TrainingPrompt]:
        for number, prompt in enumerate(left):
            if number == 9:
                raise KeyboardInterrupt
            yield prompt

    with pytest.raises(KeyboardInterrupt):
        record(recorder, cut(prompts(14)), tmp_path, QUIET)
    before = numbers_in(tmp_path)
    assert 0 < len(before) < 9
    record(recorder, prompts(14), tmp_path, QUIET)
    assert sorted(numbers_in(tmp_path)) == [n for n in range(14) if n != 5]
    assert numbers_in(tmp_path)[: len(before)] == before
    assert record(recorder, prompts(14), tmp_path, QUIET) > 0  # nothing is left


def test_states_are_those_of_a_fresh_reading(recorder: Recorder, recorded: Path) -> None:
    texts = RecordedTexts(recorded, 288, 3)
    for place in texts.places[:5]:
        ids = texts.ids(place)
        batch = texts.batch([place])
        [cache] = recorder.model.start([answers.Prompt(token_ids=tuple(ids.tolist()))])
        expected = recorder.states.kept(cache, 0, len(ids) - 1)
        off = (batch.states[0] - expected).abs().max() / expected.abs().max()
        assert float(off) < 2e-3
        assert batch.tokens[0].tolist() == ids[1:].tolist()
        assert int(batch.counts) == place.total - place.prompt - 1
        assert batch.rows[0, 0] == place.prompt - 1


def test_batches_hold_each_text_once(recorded: Path) -> None:
    places = RecordedTexts(recorded, 288, 3).places
    for seed in (0, 1):
        batches = shuffled(places, 3, seed)
        assert sorted(p for b in batches for p in map(places.index, b)) == [*range(len(places))]
        assert max(map(len, batches)) == 3
    assert shuffled(places, 3, 0) != shuffled(places, 3, 1)


def test_frequent_tokens_ascend(recorded: Path) -> None:
    texts = RecordedTexts(recorded, 288, 3)
    ids = texts.frequent(9)
    whole = np.concatenate([texts.ids(p)[p.prompt :] for p in texts.places])
    counts = np.bincount(whole, minlength=288)
    assert len(ids) == 9 and (np.diff(ids) > 0).all()
    assert min(counts[ids]) >= max(np.delete(counts, ids))


def test_wrong_files_of_prompts(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        PromptFile(name="a", file="a.jsonl", form="instructon", share=1.0)
    assert "instructon" in line(error) and "instruction" in line(error)
    with pytest.raises(OptionError) as error:
        PromptFile(name="a", file="a.jsonl", form="instruction", share=0.0)
    assert "'a' have share 0" in line(error)
    missing = PromptFile(name="a", file="a.jsonl", form="instruction", share=1.0)
    with pytest.raises(OptionError) as error:
        next(training_prompts([missing], tmp_path, 0))
    assert "no data file at" in line(error)


def test_prompts_are_drawn_in_proportion_and_always_alike(tmp_path: Path) -> None:
    for name, count in (("a", 40), ("b", 10)):
        rows = "".join(f'{{"prompt": "{name} {n}"}}\n' for n in range(count))
        (tmp_path / f"{name}.jsonl").write_text(rows)
    files = [
        PromptFile(name=name, file=f"{name}.jsonl", form="instruction", share=share)
        for name, share in (("a", 0.5), ("b", 0.5))
    ]
    drawn = list(training_prompts(files, tmp_path, 3))
    assert drawn == list(training_prompts(files, tmp_path, 3))
    assert drawn != list(training_prompts(files, tmp_path, 4))
    assert len({str(prompt.messages) for prompt in drawn}) == len(drawn) == 50
    assert 4 <= sum(prompt.kind == "b" for prompt in drawn[:16]) <= 10
