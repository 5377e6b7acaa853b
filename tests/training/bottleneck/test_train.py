"""`outrider train bottleneck` on the tiny family, and the memory in the library."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import outrider
from outrider import kernels
from outrider.cli.app import app
from outrider.core.errors import OptionError, VocabularyError
from outrider.engine.labels.labeller import Labeller
from outrider.engine.labels.states import StateReader
from outrider.memories.bottleneck import Bottleneck
from outrider.training.bottleneck.config import BottleneckRecipe
from outrider.training.bottleneck.data import texts_by_label, unlabelled_texts
from outrider.training.bottleneck.fit import Examples, Fitting, History, learn, learn_tasks
from outrider.training.bottleneck.train import train_bottleneck
from outrider.training.core.config import read_table
from tests.memories.bottleneck.test_paper import labels, memory, states

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no compiled kernels")

RECIPE = """
name = "small"
target = "tiny"
per_label = 8
held_out = 3
unlabelled_texts = 24
books = 16
keys = 12
key_epochs = 2
epochs = 10
rate = 40.0
{more}

[labelled]
file = "texts.jsonl"
label = "kind"
licence = "CC0-1.0"

[unlabelled]
file = "{others}"
label = "kind"

[[tasks]]
labels = ["sums", "dogs"]

[[tasks]]
labels = ["{third}"]
"""
SUMS = [f"What is {i + 3} plus {5 * i + 11}, and what is left?" for i in range(12)]
DOGS = [
    f"The dog {name} ran to the big tree."
    for name in ["Abe", "Bo", "Cy", "Di", "Ed", "Fay", "Gus", "Hal", "Ida", "Jo", "Kay", "Lee"]
]
CODE = [f"def f{i}(x): return x[{i}] + y_{i}" for i in range(12)]
PLAIN = [f"{name} saw {i} birds." for i in range(10) for name in ("Ann", "Ben", "It")]


def written(folder: Path, more: str = "", third: str = "code", others: str = "texts.jsonl") -> Path:
    """The file of a recipe, and its texts beside it."""
    file = folder / "recipe.toml"
    file.write_text(RECIPE.format(more=more, third=third, others=others), encoding="utf-8")
    kinds = {"sums": SUMS, "dogs": DOGS, "code": CODE, "plain": PLAIN}
    lines = [json.dumps({"text": t, "kind": kind}) for kind, texts in kinds.items() for t in texts]
    (folder / "texts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of a memory that the command line has trained, and what the command said."""
    folder = tmp_path_factory.mktemp("bottleneck")
    words = ["train", "bottleneck", str(written(folder)), "--data", str(folder)]
    result = CliRunner().invoke(app, [*words, "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    yield folder / "run" / "small", result.output


@pytest.fixture(scope="module")
def tiny() -> outrider.Generator:
    return outrider.load("tiny", drafter="none", threads=1)


def test_from_a_file_to_a_memory(run: tuple[Path, str]) -> None:
    folder, said = run
    found = Bottleneck.read(folder)
    assert found.labels == ("sums", "dogs", "code")
    assert found.values.shape == (16, 12, 3) and found.keys.width == 256
    assert found.origin.layer == 6 and found.origin.form == "{text}"
    facts = json.loads((folder / "measured.json").read_text(encoding="utf-8"))
    assert len(facts["accuracies"]) == 2 and facts["accuracies"][0][1] == 0.0
    assert facts["final"] > 0.6 and 0.0 < facts["used"] <= 1.0
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "CC0-1.0" in card and "| sums, dogs |" in card
    assert "24 unlabelled texts" in said and "task 2: code" in said and str(folder) in said


def test_a_labeller_labels_texts_and_learns_more(
    run: tuple[Path, str], tiny: outrider.Generator
) -> None:
    one = Labeller.of(tiny, run[0])
    assert one.label([SUMS[0], CODE[5]]) == ["sums", "code"]
    reader = StateReader(tiny.strategy.target, tiny.tokenizer)
    assert one.label(DOGS) == one.memory.classify(reader.read(DOGS))
    odd = "A poem of the sea is here"
    taught = next(name for name in one.memory.labels if name != one.label([odd])[0])
    before = one.memory.values.clone()
    one.teach([odd], [taught], rate=100.0, epochs=20)
    assert one.label([odd]) == [taught]
    assert int((one.memory.values != before).any(2).sum()) == 16  # one value of each book
    with pytest.raises(OptionError, match="unknown label 'cat'"):
        one.teach([odd], ["cat"], rate=1.0)
    with pytest.raises(OptionError, match="2 labels for 1 texts"):
        one.teach([odd], ["sums", "dogs"], rate=1.0)
    with pytest.raises(OptionError, match="rate is 0"):
        one.teach([odd], ["sums"], rate=0.0)


def test_a_labeller_reads_the_layer_and_the_form_of_its_memory(
    run: tuple[Path, str], tiny: outrider.Generator
) -> None:
    own = Bottleneck.read(run[0])
    origin = replace(own.origin, layer=2, form="Q: {text} A:")
    values = torch.randn(own.values.shape, generator=torch.Generator().manual_seed(0))
    other = replace(own, values=values, origin=origin)
    one = Labeller(tiny.strategy.target, tiny.tokenizer, other)
    reader = StateReader(tiny.strategy.target, tiny.tokenizer, 2, "Q: {text} A:")
    texts = [*SUMS, *DOGS, *CODE]
    assert one.label(texts) == other.classify(reader.read(texts))


def test_texts_for_the_keys_have_no_label_of_a_task(tmp_path: Path) -> None:
    recipe = read_table(written(tmp_path), BottleneckRecipe)
    found = unlabelled_texts(recipe, tmp_path)
    assert len(found) == 24 and {*found} < {*PLAIN}
    labelled = texts_by_label(recipe, tmp_path)
    assert {label: len({*texts}) for label, texts in labelled.items()} == dict.fromkeys(
        ("sums", "dogs", "code"), 11
    )
    assert {*labelled["dogs"]} < {*DOGS}


def test_states_are_those_of_the_last_token(tiny: outrider.Generator) -> None:
    """The state from which the next token is chosen, whatever is read beside it."""
    from outrider.core.types import Prompt, as_ids
    from outrider.protocols import Segment

    target, form = tiny.strategy.target, "Q: {text} {A}:"
    reader = StateReader(target, tiny.tokenizer, form=form)
    texts = ["One", "Two dogs ran {text}", "Three red birds flew over the wood"] * 7
    found = reader.read(texts)
    for number in (0, 1, 2, 20):
        ids = tiny.tokenizer.encode(f"Q: {texts[number]} {{A}}:")
        [cache] = target.start([Prompt(token_ids=ids)])
        [rows] = target.forward([Segment(cache, as_ids([]))], [as_ids([-1])])
        torch.testing.assert_close(found[number], rows.hidden[0].float(), atol=2e-4, rtol=1e-3)
    first = StateReader(target, tiny.tokenizer, 2, form).read(texts[:1])
    assert not torch.allclose(first[0], found[0], atol=0.1)
    for wrong, said in (({"layer": 7}, "layer is 7"), ({"form": "Q:"}, "form is 'Q:'")):
        with pytest.raises(OptionError, match=said):
            StateReader(target, tiny.tokenizer, **wrong)
    with pytest.raises(OptionError, match="no texts"):
        reader.read([])
    with pytest.raises(OptionError, match="has no tokens"):
        StateReader(target, tiny.tokenizer).read([""])


def test_a_memory_of_another_model_is_refused(
    run: tuple[Path, str], tiny: outrider.Generator
) -> None:
    own = Bottleneck.read(run[0])
    strange = Bottleneck.empty(own.keys, own.labels)
    with pytest.raises(VocabularyError, match="states of another model"):
        Labeller(tiny.strategy.target, tiny.tokenizer, strange)


def examples(seed: int, task: int, own: Bottleneck) -> Examples:
    return Examples(own.keys.fetch(states(40, seed)), labels(40, seed) % 2 + 2 * task)


def test_tasks_are_learned_in_order_and_measured_after_each() -> None:
    one, other = memory(), memory()
    tasks = [examples(1, 0, one), examples(2, 1, one)]
    fitting = Fitting(rate=20.0, epochs=15, batch=8)
    history = learn_tasks(one, tasks, tasks, fitting)
    for task, row in zip(tasks, history.rows, strict=True):
        learn(other, task, fitting)
        scores = [other.scores(t.fetched).argmax(1) == t.labels for t in tasks]
        assert row == tuple(pytest.approx(float(s.float().mean())) for s in scores)
    assert torch.equal(one.values, other.values)
    assert history.rows[0][0] > 0.9 and history.rows[0][1] == 0.0 and history.rows[1][1] > 0.9


def test_the_result_depends_on_the_seed_of_the_order_only() -> None:
    found = []
    for seed in (0, 0, 1):
        own = memory()
        learn(own, examples(1, 0, own), Fitting(rate=5.0, epochs=2, batch=8, seed=seed))
        found.append(own.values)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_forgetting_is_what_was_lost_since_the_best_value() -> None:
    history = History(((0.7, 0.0, 0.0), (0.9, 0.8, 0.0), (0.6, 0.2, 1.0)))
    assert history.final == pytest.approx(0.6)
    assert history.forgetting == pytest.approx(((0.9 - 0.6) + (0.8 - 0.2)) / 2)
    assert History(((0.7,),)).forgetting == 0.0


def test_wrong_recipes_are_refused(tmp_path: Path) -> None:
    for more, said in (
        ("layer = -2", "layer is -2"),
        ("size = 0", "size is 0"),
        ("decay = 1.0", "decay is 1"),
        ("batch = 0", "batch is 0"),
        ("rates = [1.0]", "unknown key"),
        ("form = 'Q'", "form is 'Q'"),
        ("layer = 9", "layer is 9"),
    ):
        with pytest.raises(OptionError, match=said):
            train_bottleneck(written(tmp_path, more), data=tmp_path, out=tmp_path / "run")
    for third, said in (("sums", "in two places"), ("cats", "'cats' has 0 texts")):
        with pytest.raises(OptionError, match=said):
            train_bottleneck(written(tmp_path, third=third), data=tmp_path, out=tmp_path / "run")
    file = written(tmp_path, others="few.jsonl")
    (tmp_path / "few.jsonl").write_text(json.dumps({"text": "One", "kind": ""}))
    with pytest.raises(OptionError, match="1 unlabelled texts for 12 keys"):
        train_bottleneck(file, data=tmp_path, out=tmp_path / "run")
    (tmp_path / "few.jsonl").write_text(json.dumps({"words": "One"}))
    with pytest.raises(OptionError, match="has no text 'text'"):
        train_bottleneck(file, data=tmp_path, out=tmp_path / "run")
    with pytest.raises(OptionError, match="no data directory"):
        train_bottleneck(file, data=tmp_path / "nowhere", out=tmp_path / "run")
