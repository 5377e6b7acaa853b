"""Answers are recorded once, and a head learns from them, also in several goes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError, OutriderError, StrategyError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.config import HeadKind
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.own import is_matrix
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from outrider.models.llama.decoder import Decoder
from outrider.models.quantization.int4 import quantize_int4
from outrider.models.tabular import TabularModel
from outrider.training.core.loop import TrainingStopped
from outrider.training.heads import answers, run, start
from outrider.training.heads.answers import AnswerSettings, Recorder, Text, read_numbers, record
from outrider.training.heads.config import HeadRecipe, HeadTraining
from outrider.training.heads.data import RecordedTexts, shuffled
from outrider.training.heads.loss import chain_loss
from outrider.training.heads.prompts import PromptFile, TrainingPrompt, training_prompts
from outrider.training.heads.run import HeadTrainer
from outrider.training.heads.start import Teacher, fit_ridge, fresh_head
from tests.models.heads.setups import VOCAB, make_module, make_target, random_text
from tests.models.setups.make_checkpoints import make_checkpoint

hinted, eagle3 = pytest.mark.method("hinted"), pytest.mark.method("eagle3")
STATES, LAYERS = (1, 2, 4), 4
SETTINGS = AnswerSettings(tokens=10**6, longest=14, longest_prompt=60, batch=3)
QUIET: Any = lambda _: None  # noqa: E731


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    return make_checkpoint(folder, tokenizer=True, std=0.25, num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def recorder(source: Path) -> Recorder:
    target = Decoder.load(source, dtype=torch.float32)
    return Recorder.of(target, Tokenizer.load(source), STATES, SETTINGS)


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SHARD", 4)


def prompts(count: int) -> Iterator[TrainingPrompt]:
    for number in range(count):
        content = "abc " * (30 if number == 5 else 1) + str(number)
        yield TrainingPrompt(f"kind{number % 2}", [{"role": "user", "content": content}])


@pytest.fixture(scope="module")
def recorded(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 texts in four files; prompt 5 is too long."""
    folder = tmp_path_factory.mktemp("texts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "SHARD", 4)
        record(recorder, prompts(14), folder, QUIET)
    return folder


def numbers_in(folder: Path) -> list[int]:
    return [n for file in sorted(folder.glob("texts-*")) for n in read_numbers(file)]


# -- recording -----------------------------------------------------------------------------------


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


# -- the start ----------------------------------------------------------------------------------


def synthetic(folder: Path, states: Sequence[Tensor] | None = None) -> None:
    """Texts of random tokens with given states; the states of each place are the final one only."""
    texts = []
    for number in range(24):
        ids = torch.tensor(random_text(70, number), dtype=torch.int32)
        own = torch.zeros(69, 1, 32) if states is None else states[number]
        texts.append(Text(number, "made", ids, 1, own.half()))
    answers.save_texts(folder / "texts-00000.safetensors", texts)


@hinted
def test_the_ridge_fit_recovers_a_known_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next final state is a linear function of state, token and hint: it is found."""
    monkeypatch.setattr(start, "_RIDGE", 1e-3)
    teacher = Teacher.of(open_checkpoint(make_target(tmp_path / "target")))
    table = np.arange(VOCAB)
    ids = np.arange(30)
    config, tensors = fresh_head(teacher, HeadKind.HINTED, (LAYERS,), ids, table, random=True)
    head = make_module(config, tensors, teacher)
    true = [torch.randn(32, 32) * size / 32**0.5 for size in (0.5, 1.0, 0.7)]
    synthetic(tmp_path)
    texts = RecordedTexts(tmp_path, VOCAB, 1)
    states: list[Tensor] = []
    for place in texts.places:
        batch, state = texts.batch([place]), torch.randn(32)
        token = head.normed_embedding(batch.tokens[0])
        known = (batch.levels[0, :, 0] > 0)[:, None]
        hint = head.normed_embedding(batch.hints[0, :, 0]) * known
        rows: list[Tensor] = []
        for row in range(batch.tokens.shape[1]):
            rows.append(state)
            step = true[0] @ state + true[1] @ token[row] + true[2] @ hint[row]
            state = (head.part("norm.weight") * step).detach()
        states.append(torch.stack(rows)[:, None])
    synthetic(tmp_path, states)
    texts = RecordedTexts(tmp_path, VOCAB, 1)
    fit_ridge(head, texts, texts.places)
    for name, expected in zip(("recur", "token", "hint"), true, strict=True):
        found = head.part(f"{name}.weight").detach()
        assert float((found - expected).norm() / expected.norm()) < 0.03, name
    assert torch.isfinite(head.part("fc.weight")).all()


@pytest.mark.parametrize("random", [True, False])
def test_a_fresh_head_has_the_shapes_of_its_file(source: Path, random: bool) -> None:
    teacher = Teacher.of(open_checkpoint(source))
    for kind in (HeadKind.HINTED, HeadKind.EAGLE3):
        config, tensors = fresh_head(
            teacher, kind, STATES, np.arange(40), np.full(288, -1), random=random
        )
        config.check(tensors, "of a test")
        own = torch.equal(
            tensors["layers.0.mlp.up_proj.weight"], teacher.layer["layers.0.mlp.up_proj.weight"]
        )
        assert own is not random


@pytest.mark.parametrize(
    ("kind", "options"),
    [("granite", {"logits_scaling": 2.0}), ("gemma2", {}), ("mistral", {"sliding_window": 3})],
)
def test_a_target_whose_layer_no_head_can_have(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    """It is refused before answers are written, not after training."""
    target = make_checkpoint(tmp_path, kind, **options)
    with pytest.raises(OutriderError) as error:
        Teacher.of(open_checkpoint(target))
    assert "which heads do not support" in line(error) or "cannot be written" in line(error)


# -- training -----------------------------------------------------------------------------------


def recipe(kind: str = "hinted", **options: Any) -> HeadRecipe:
    training = {"single": 2.0, "unrolled": 1.5, "steps": 2, "held_out": 2, "texts": 3, **options}
    return HeadRecipe(
        name="head",
        target="target",
        prompts=(),
        kind=kind,
        states=STATES,
        draft_vocab=40,
        train_vocab=30,
        training=HeadTraining(**training),
    )


def trainer(source: Path, texts: Path, folder: Path, asked: HeadRecipe, stop: Any = None) -> Any:
    folder.mkdir(exist_ok=True)
    teacher = Teacher.of(open_checkpoint(source))
    found = RecordedTexts(texts, 288, 3, hints=asked.training.hints)
    return HeadTrainer(asked, teacher, found, folder, QUIET, stop)


def loss_of(made: Any) -> float:
    """The loss of all training texts in two steps."""
    places = made.training
    ids = made._vocabulary(places)
    made.head.lm_head = made.teacher.lm_head[ids]
    batch = made.texts.batch(places)
    with torch.no_grad():
        return float(chain_loss(made.head, made._rotary, batch, made.teacher, ids, 2))


class StopAfter:
    """Asks for a stop after some batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    @property
    def asked(self) -> bool:
        self.left -= 1
        return self.left <= 0


KINDS = [
    pytest.param("hinted", marks=hinted),
    pytest.param("eagle3", marks=eagle3),
    pytest.param("eagle1", marks=pytest.mark.method("eagle1")),
    pytest.param("fspad", marks=pytest.mark.method("fspad")),
    pytest.param("medusa", marks=pytest.mark.method("medusa")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_where_it_stopped(
    source: Path, recorded: Path, tmp_path: Path, kind: str
) -> None:
    """The loss falls, and a run in three parts makes the same head to the bit."""
    asked = recipe(kind, bits=4 if kind == "hinted" else 8)
    whole = trainer(source, recorded, tmp_path / "whole", asked)
    before = loss_of(whole)
    whole.run()
    assert loss_of(whole) < before - 0.02
    for batches in (3, 4):
        part = trainer(source, recorded, tmp_path / "parts", asked, StopAfter(batches))
        with pytest.raises(TrainingStopped, match="saved after"):
            part.run()
    last = trainer(source, recorded, tmp_path / "parts", asked)
    last.run()
    expected = whole.tensors()
    assert set(last.tensors()) == set(expected)
    for name, tensor in last.tensors().items():
        assert torch.equal(tensor, expected[name]), name
    done = trainer(source, recorded, tmp_path / "parts", asked)
    done.run()  # nothing is left to do
    assert all(torch.equal(t, expected[n]) for n, t in done.tensors().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_head_can_be_written_and_read(
    source: Path, recorded: Path, tmp_path: Path, kind: str
) -> None:
    made = trainer(source, recorded, tmp_path / "run", recipe(kind))
    folder, settings = tmp_path / "head", open_checkpoint(source).config
    tensors = made.tensors()
    write_head(folder, made.config, tensors, Verifier(), bits=None, card="", rotary=settings)
    file = read_head(folder, layers=LAYERS)
    assert file.config.states == ({"hinted": STATES, "eagle3": STATES[:-1]}.get(kind, STATES[-1:]))
    for name, tensor in tensors.items():
        assert torch.equal(file.tensors[name], tensor.to(file.tensors[name].dtype)), name


@hinted
def test_without_hints_and_with_a_share_of_the_texts(
    source: Path, recorded: Path, tmp_path: Path
) -> None:
    asked = recipe(hints=False, share=0.3, ridge=False, random=True, single=1.0, unrolled=0.0)
    made = trainer(source, recorded, tmp_path / "run", asked)
    places = len(made.texts.places) - 2
    assert len(made.training) == round(0.3 * places)
    assert not set(map(id, made.training)) & set(map(id, made.held_out))
    made.run()
    plain = RecordedTexts(recorded, 288, 3, hints=False)
    assert not plain.batch(plain.places[:2]).levels.any()


@hinted
def test_rounding_gives_the_levels_of_the_file_and_the_gradient_of_the_weight(
    source: Path, recorded: Path, tmp_path: Path
) -> None:
    made = trainer(source, recorded, tmp_path / "run", recipe(bits=4))
    head, rounding = made.head, made._rounding
    names = [name for name, p in made.tensors().items() if is_matrix(name, p)]
    assert set(names) >= {"fc.weight", "hint.weight", "layers.0.mlp.up_proj.weight"}
    rounding.use(head, 0)
    for name in names:
        weight = head.parts[name.replace(".", "/")]
        expected = quantize_int4(weight.detach()).dequantize()
        close = (head.part(name) - expected).abs().max() <= 1e-6 * expected.abs().max()
        assert close and not torch.equal(head.part(name), weight), name
    (head.part("fc.weight") * torch.arange(head.config.width)[:, None]).sum().backward()
    grad = head.parts["fc/weight"].grad
    assert grad is not None
    assert torch.equal(grad, torch.arange(head.config.width)[:, None].expand_as(grad).float())
    with torch.no_grad():
        head.parts["fc/weight"] += 0.01
    rounding.use(head, 1)  # the levels are those of batch 0
    before = rounding.get_parameter("fc/weight_scale").clone()
    rounding.use(head, 32)
    assert not torch.equal(rounding.get_parameter("fc/weight_scale"), before)
    rounding.finish(head)
    written = quantize_int4(head.parts["fc/weight"].detach()).dequantize()
    assert torch.equal(head.part("fc.weight"), written)


@hinted
def test_a_trained_head_is_trained_further(source: Path, recorded: Path, tmp_path: Path) -> None:
    """With its weights, its draft vocabulary and its table of hints."""
    first = trainer(source, recorded, tmp_path / "first", recipe())
    first.run()
    folder, settings = tmp_path / "head", open_checkpoint(source).config
    write_head(
        folder, first.config, first.tensors(), Verifier(), bits=None, card="", rotary=settings
    )
    again = replace(recipe(start=str(folder), unrolled=0.5), draft_vocab=12)
    more = trainer(source, recorded, tmp_path / "more", again)
    expected = first.tensors()
    assert set(more.tensors()) == set(expected)
    assert all(torch.equal(t, expected[name]) for name, t in more.tensors().items())
    assert torch.equal(torch.from_numpy(more.texts.table), expected["successors"])
    before = loss_of(more)
    more.run()
    assert loss_of(more) < before
    with pytest.raises(OptionError) as error:
        trainer(source, recorded, tmp_path / "other", replace(again, states=(1, 4)))
    assert "training.start is a head of kind hinted with states [1, 2, 4]" in line(error)


@pytest.mark.method("medusa")
def test_trained_medusa_heads_are_trained_further(
    source: Path, recorded: Path, tmp_path: Path
) -> None:
    """Their accuracies are measured again and are no weights; the number of heads is kept."""
    first, folder = (
        trainer(source, recorded, tmp_path / "first", recipe("medusa")),
        tmp_path / "head",
    )
    for part in first.head.parts.values():
        part.data += 0.01
    write_head(folder, first.config, first.tensors(), Verifier(), bits=None, card="")
    again = recipe("medusa", start=str(folder), single=1.0, unrolled=0.0)
    more = trainer(source, recorded, tmp_path / "more", replace(again, draft_vocab=12))
    assert set(more.head.tensors()) == set(first.head.tensors())
    assert all(torch.equal(t, first.tensors()[name]) for name, t in more.tensors().items())
    before = loss_of(more)
    more.run()
    assert loss_of(more) < before
    with pytest.raises(OptionError) as error:
        trainer(source, recorded, tmp_path / "other", replace(again, heads=3))
    assert "training.start holds 4 Medusa heads with shared output rows" in line(error)
    with pytest.raises(OptionError) as error:
        trainer(source, recorded, tmp_path / "other", recipe("eagle1", start=str(folder)))
    assert "training.start is a head of kind medusa" in line(error)


# -- refusals -------------------------------------------------------------------------------------


def line(error: Any) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_what_is_wrong_is_said_in_one_line(source: Path, recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        RecordedTexts(tmp_path, 288, 3)
    assert f"there are no recorded texts in {tmp_path}" in line(error)
    with pytest.raises(OptionError) as error:
        trainer(source, recorded, tmp_path / "run", recipe(held_out=40))
    assert "texts are recorded, and 40 of them are held out" in line(error)
    with pytest.raises(OptionError) as error:
        recipe("mtp")
    assert "kind is 'mtp'" in line(error) and "hinted, eagle3, eagle1, fspad, medusa" in line(error)
    with pytest.raises(OptionError) as error:
        replace(recipe("fspad"), sampling=False, alignment=False)
    assert "neither sampling nor alignment" in line(error)
    for noise in (-0.1, float("nan"), float("inf")):
        with pytest.raises(OptionError) as error:
            recipe("eagle1", noise=noise)
        assert "training has noise" in line(error)
    with pytest.raises(OptionError) as error:
        replace(recipe("eagle3"), states=(4,))
    assert "states are 4 only" in line(error)
    faulty: list[dict[str, Any]] = [{"share": 0.0}, {"share": 1.5}, {"steps": 0}, {"texts": 0}]
    for wrong in faulty:
        with pytest.raises(OptionError) as error:
            recipe(**wrong)
        assert "Give at least one step and one text" in line(error)
    wrong_bits = (
        ("hinted", 5, "training.bits is 5"),
        ("eagle3", 4, "EAGLE-3 heads are"),
        ("medusa", 4, "Medusa heads are written with 8 bits"),
    )
    for kind, bits, message in wrong_bits:
        with pytest.raises(OptionError) as error:
            recipe(kind, bits=bits)
        assert message in line(error)
    for heads in (0, 9):
        with pytest.raises(OptionError) as error:
            replace(recipe("medusa"), heads=heads)
        assert "Give 1 to 8 heads" in line(error)
    with pytest.raises(StrategyError) as error:
        Recorder.of(TabularModel.random(), Tokenizer.load(source), STATES, SETTINGS)
    assert "does not return hidden states" in line(error)


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


def test_the_optimizer_moves_every_matrix(source: Path, recorded: Path, tmp_path: Path) -> None:
    made = trainer(source, recorded, tmp_path / "run", recipe(ridge=False))
    before = {name: part.clone() for name, part in made.head.tensors().items()}
    made._step(run._optimizer(made.head, made.recipe.training), made.training[:4], 2, 40, 0.0)
    still = [name for name, part in made.head.tensors().items() if torch.equal(part, before[name])]
    assert still == []
    groups = run._optimizer(made.head, made.recipe.training).param_groups
    assert sum(len(group["params"]) for group in groups) == len(made.head.parts)
