"""A head learns from recorded answers, also in several goes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from outrider.core.errors import OptionError, StrategyError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.checkpoints.tokenizer import Tokenizer
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.own import is_matrix
from outrider.models.heads.formats.reading import read_head
from outrider.models.heads.formats.writing import write_head
from outrider.models.quantization.int4 import quantize_int4
from outrider.models.tabular import TabularModel
from outrider.training.core.loop import TrainingStopped
from outrider.training.heads import run
from outrider.training.heads.answers import Recorder
from outrider.training.heads.data import RecordedTexts
from tests.training.heads.setups import LAYERS, SETTINGS, STATES, line, loss_of, recipe, trainer

hinted, eagle3 = pytest.mark.method("hinted"), pytest.mark.method("eagle3")


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
    pytest.param("clover", marks=pytest.mark.method("clover")),
    pytest.param("chimera", marks=pytest.mark.method("chimera")),
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


def test_what_is_wrong_is_said_in_one_line(source: Path, recorded: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as error:
        RecordedTexts(tmp_path, 288, 3)
    assert f"there are no recorded texts in {tmp_path}" in line(error)
    with pytest.raises(OptionError) as error:
        trainer(source, recorded, tmp_path / "run", recipe(held_out=40))
    assert "texts are recorded, and 40 of them are held out" in line(error)
    with pytest.raises(OptionError) as error:
        recipe("mtp")
    assert "kind is 'mtp'" in line(error) and "eagle1, fspad, medusa, chimera, clover" in line(
        error
    )
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


def test_the_optimizer_moves_every_matrix(source: Path, recorded: Path, tmp_path: Path) -> None:
    made = trainer(source, recorded, tmp_path / "run", recipe(ridge=False))
    before = {name: part.clone() for name, part in made.head.tensors().items()}
    made._step(run._optimizer(made.head, made.recipe.training), made.training[:4], 2, 40, 0.0)
    still = [name for name, part in made.head.tensors().items() if torch.equal(part, before[name])]
    assert still == []
    groups = run._optimizer(made.head, made.recipe.training).param_groups
    assert sum(len(group["params"]) for group in groups) == len(made.head.parts)
