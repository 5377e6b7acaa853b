"""The figures of the benchmarks of long inputs: extracts, likelihoods, intervals, what is kept."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.long_inputs.encoding import Remembered
from benchmarks.long_inputs.extracts import extract, likeness, rouge_l, sentences
from benchmarks.long_inputs.intervals import bootstrap, wilson
from benchmarks.long_inputs.likelihood import log_likelihoods
from benchmarks.long_inputs.records import Records
from benchmarks.long_inputs.stretched import rope_parameters, stretch

from outrider.context.config import ContextConfig
from outrider.context.rankers.cosine import CosineRanker
from outrider.context.selector import Selected
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment
from tests.bench.long_input_rigs import Words, context, passages
from tests.models.setups.make_checkpoints import make_checkpoint

# -- extracts ----------------------------------------------------------------------------------


def test_a_text_falls_into_its_sentences():
    assert sentences("One is here.  Two is not! \n\nThree\n\n* * *\n\n") == [
        "One is here.",
        "Two is not!",
        "Three",
    ]
    assert sentences("") == []


def test_extracts_keep_to_their_room_and_follow_what_is_taken():
    own = context("a b", "b c", "c d", "e", asked="a")
    index = CosineRanker(Words(), window=None).index(own)
    assert extract(own, index, 0, every=1, mix=0.0, window=3) == ()
    assert extract(own, index, 3, every=1, mix=0.0, window=3) == (0,)
    assert extract(own, index, 6, every=1, mix=0.0, window=3) == (0, 1)
    assert extract(own, index, 9, every=1, mix=0.0, window=3) == (0, 1, 2)
    assert extract(own, index, 4, every=1, mix=0.0, window=3) == (0, 3)  # what fits the rest


def test_likeness_matches_each_sentence_with_its_nearest():
    same = likeness(Words(), ["a", "b"], ["b", "a"])
    assert same.precision == pytest.approx(1) and same.f1 == pytest.approx(1)
    part = likeness(Words(), ["a"], ["a", "b"])
    assert (part.precision, part.recall) == (pytest.approx(1), pytest.approx(0.5))
    assert part.f1 == pytest.approx(2 / 3)
    assert likeness(Words(), [], ["a"]).f1 == 0.0


def test_rouge_l_takes_the_best_reference():
    pytest.importorskip("rouge_score")
    assert rouge_l("the cat sat", ["a dog ran", "the cat sat"]) == 1.0
    assert rouge_l("the cat sat", ["the cat ran"]) == pytest.approx(2 / 3)


# -- likelihood --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = make_checkpoint(
        tmp_path_factory.mktemp("model"), "llama", dtype=torch.float64, vocab_size=128, std=0.3
    )
    return Decoder.load(folder, dtype=torch.float64)


def test_pieces_do_not_change_a_likelihood(model: Decoder):
    prompt, ids = Prompt(token_ids=(5, 9, 11)), [7, 3, 22, 8, 90, 14, 2]
    whole, _ = log_likelihoods(model, prompt, ids, len(ids))
    for every in (1, 3):
        found, cache = log_likelihoods(model, prompt, ids, every)
        assert found == pytest.approx(whole, abs=1e-9)
        assert list(cache.text) == [*prompt.token_ids, *ids]
    [cache] = model.start([prompt])
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids([-1])])
    assert whole[0] == pytest.approx(torch.log_softmax(rows.logits[0], -1)[7].item())


def test_a_selection_looks_again_between_pieces(model: Decoder):
    own = context("a a ", "b b ", "c c ", "d d ")
    ids = tuple(i for chunk in own.chunks for i in chunk.token_ids)
    prompt = Prompt(token_ids=(*ids, 1), context=own)
    config = ContextConfig(
        keep_ratio=0.25, refresh=4, query_mix=0.2, pin_ends=False, positions="compact"
    )
    chosen = Selected(model, CosineRanker(Words(), window=None), config)
    _, cache = log_likelihoods(chosen, prompt, list(map(ord, " c c c c c c")), 4)
    assert cache.reading.refreshes == 2 and cache.selection.chosen == (2,)


# -- figures -----------------------------------------------------------------------------------


def test_wilsons_interval():
    low, high = wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(10, 10)[1] == pytest.approx(1) and 0.7 < wilson(10, 10)[0] < 0.75
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_intervals_know_groups():
    values = [1.0] * 10 + [0.0] * 10
    mean, low, high = bootstrap(values)
    assert mean == 0.5 and 0.2 < low < 0.4 and 0.6 < high < 0.8
    groups = ["one"] * 10 + ["two"] * 10
    assert bootstrap(values, groups)[1:] == (0.0, 1.0)  # two documents say little
    assert bootstrap([2.0]) == (2.0, 2.0, 2.0)
    assert bootstrap(values) == bootstrap(values)


# -- what is kept ------------------------------------------------------------------------------


def test_vectors_are_made_once_and_found_again(tmp_path: Path):
    file, words = tmp_path / "vectors", Words()
    kept = Remembered(words, file)
    first = kept.encode(passages("a", "b", "a"))
    assert words.asked == 2 and first.shape == (3, 5)
    with file.open("ab") as torn:
        torn.write(b"half a record")
    again = Remembered(words, file)
    assert np.array_equal(again.encode(passages("b", "c", "a"))[[2, 0]], first[:2])
    assert words.asked == 3
    assert np.array_equal(Remembered(words, file).encode(passages("c")), [[0, 0, 1, 0, 0]])
    assert words.asked == 3


def test_an_interrupted_run_goes_on(tmp_path: Path):
    file = tmp_path / "out" / "lines.jsonl"
    Records(file, {"size": 3}).add("run", key="one", found=1)
    with file.open("a") as torn:
        torn.write('{"kind": "run", "key": "tw')
    records = Records(file, {"size": 3})
    assert records.keys == {"one"} and [line["found"] for line in records.of("run")] == [1]
    records.add("run", key="two", found=2)
    assert {"commit", "versions", "device", "command"} <= set(records.of("environment")[0])
    assert len(Records(file, {"size": 3}).of("run")) == 2
    with pytest.raises(SystemExit, match="other settings"):
        Records(file, {"size": 4})


# -- stretched models --------------------------------------------------------------------------


def test_stretched_copies_read_further(tmp_path: Path):
    folder = make_checkpoint(tmp_path / "small", "llama", dtype=torch.float64, vocab_size=64)
    config = json.loads((folder / "config.json").read_text())
    window = Decoder.load(folder, dtype=torch.float64).info.context_length
    for kind in ("yarn", "linear", "ntk"):
        copy = stretch(folder, tmp_path / kind, 4, kind)
        model = Decoder.load(copy, dtype=torch.float64)
        assert model.info.context_length == 4 * window
        ids = tuple(i % 64 for i in range(2 * window))
        found, _ = log_likelihoods(model, Prompt(token_ids=ids), [1, 2], 2)
        assert np.isfinite(found).all()
    base = rope_parameters(config, "ntk", 4)["rope_theta"]
    assert base > config["rope_parameters"]["rope_theta"]
    assert stretch(folder, tmp_path / "yarn", 4, "yarn") == tmp_path / "yarn"  # as it was
    with pytest.raises(ValueError, match="unknown kind"):
        rope_parameters(config, "bent", 4)
