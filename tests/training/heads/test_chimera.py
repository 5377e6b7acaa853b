"""Training of a head of Chimera (arXiv 2402.15758): its steps, its start and its loss."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.chimera.config import OUT, squares_of
from outrider.models.heads.chimera.module import ChimeraModule
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.writing import write_head
from outrider.training.heads import start, unroll
from outrider.training.heads.kinds import chimera
from outrider.training.heads.kinds.chimera import chimera_loss, fit_chimera, fresh_chimera
from outrider.training.heads.start import Teacher
from outrider.training.heads.unroll import Texts
from tests.models.heads.chimera.setups import PARTS, chimera_rig
from tests.models.heads.setups import LAYERS, VOCAB, Rig, make_target
from tests.training.heads.setups import line, recipe, trainer
from tests.training.heads.test_unroll import STEPS, TOLERANCE, _attends, differences, recorded

pytestmark = pytest.mark.method("chimera")

IDS = torch.arange(VOCAB)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module", params=PARTS)
def rig(request: Any, folder: Path) -> Rig:
    return chimera_rig(folder, heads=STEPS, **PARTS[request.param])


@pytest.fixture(scope="module")
def whole(folder: Path) -> Rig:
    return chimera_rig(folder, heads=STEPS)


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return Teacher.of(open_checkpoint(folder))


def unmoved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded tokens lie at the place of the state before them."""
    right = unroll._turned
    monkeypatch.setattr(
        unroll,
        "_turned",
        lambda x, table, at, bound: right(x, table, at - int(at[0, 0] == 1), bound),
    )


def other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trigrams end one token too early."""
    right = unroll.grams_of
    monkeypatch.setattr(unroll, "grams_of", lambda tokens, n: right(tokens, n).roll(1, 1))


def no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """No output stands for the missing state."""
    right = unroll._ChimeraLayer.stored

    def stored(layer: Any, states: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        return right(layer, states if int(places[0, 0]) == 0 else torch.ones_like(states), places)

    monkeypatch.setattr(unroll._ChimeraLayer, "stored", stored)


BROKEN: dict[str, Any] = {
    "places": unmoved,
    "tokens": other_tokens,
    "outputs": no_output,
    "itself": _attends(lambda first, hidden, own: (first, hidden, own[:-1])),
    "branch": _attends(lambda first, hidden, own: (first, hidden, own[-1:])),
    "future": _attends(lambda first, hidden, own: (first, hidden.roll(1, -1), own)),
    "past": _attends(lambda first, hidden, own: (first, hidden.roll(-1, -1), own)),
}


def test_a_step_in_training_equals_a_step_in_decoding(rig: Rig) -> None:
    """Four steps after each place of two texts, the shorter of which is padded."""
    with torch.no_grad():
        assert max(differences(rig, recorded(rig))) <= TOLERANCE


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_copy_is_seen(whole: Rig, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = recorded(whole)
    BROKEN[broken](monkeypatch)
    assert max(differences(whole, texts)) > 10 * TOLERANCE


def test_no_step_reads_what_comes_later(whole: Rig) -> None:
    """States after the start of a chain, and tokens after its last one, change nothing."""
    texts = recorded(whole)
    rotary: Any = whole.head._rotary
    first = int(texts.rows[0, 2])
    other = replace(texts, states=texts.states.clone(), tokens=texts.tokens.clone())
    other.states[:, first + 1 :] += 1
    other.tokens[:, first + STEPS :] = 3
    with torch.no_grad():
        for ours, theirs in zip(
            *(unroll.chimera_steps(_net(whole), rotary, one, STEPS) for one in (texts, other)),
            strict=True,
        ):
            same = ours.logits[:3] == theirs.logits[:3]
            assert bool(same.all()) and not torch.equal(ours.logits, theirs.logits)


def _net(rig: Rig) -> ChimeraModule:
    assert isinstance(rig.module, ChimeraModule)
    return rig.module


class Made:
    """Texts whose final state is a known function of the one before and of the last tokens."""

    def __init__(self, teacher: Teacher, count: int) -> None:
        width = teacher.config.hidden_size
        drawn = torch.Generator().manual_seed(1)
        self.keep = torch.linalg.qr(torch.randn(width, width, generator=drawn)).Q * 0.5
        self.read = torch.randn(width, 3 * width, generator=drawn) * 2 / width**0.5
        self.texts = [self._text(teacher, drawn) for _ in range(count)]

    def _text(self, teacher: Teacher, drawn: torch.Generator) -> Texts:
        length, first = 24, 3
        tokens = torch.randint(0, VOCAB, (1, length), generator=drawn)
        words = teacher.embed[unroll.grams_of(tokens[0], 3)].flatten(1)
        states = [torch.randn(self.keep.shape[0], generator=drawn)]
        for place in range(length - 1):
            states.append(self.keep @ states[-1] + self.read @ words[place])
        none = torch.zeros(1, length, 3, dtype=torch.int64)
        starts = length - first
        return Texts(
            states=torch.stack(states)[None, :, None],
            tokens=tokens,
            rows=(first - 1 + torch.arange(starts))[None],
            counts=torch.tensor([starts]),
            hints=none,
            levels=none,
        )

    def batch(self, places: Sequence[Any]) -> Texts:
        [place] = places
        return self.texts[place.number]


def fresh(teacher: Teacher, **parts: bool) -> ChimeraModule:
    asked = replace(recipe("chimera"), heads=3, **parts)
    config, tensors = fresh_chimera(teacher, LAYERS, IDS.numpy(), asked)
    embed = teacher.embed
    return ChimeraModule(config, tensors, lambda ids: embed[ids], teacher.lm_head.clone())


def test_the_fit_is_that_of_least_squares(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder for the state of its token; each head for the state in which its token is
    chosen, from the last state and the encoded token before."""
    monkeypatch.setattr(start, "_RIDGE", 1e-4)
    made, head = Made(teacher, 40), fresh(teacher)
    places: Any = [SimpleNamespace(number=i, prompt=3) for i in range(40)]
    fit_chimera(head, made, places)  # pyright: ignore[reportArgumentType]
    found = {name: tensor.detach() for name, tensor in head.tensors().items()}
    words, after, second, third = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    for text in made.texts:
        states, tokens = text.states[0, :, -1], text.tokens[0]
        for row in range(2, 23):
            words.append(teacher.embed[tokens[row - 2 : row + 1]].flatten())
            after.append(states[row + 1])
            if row < 22:
                before = teacher.embed[tokens[row - 1 : row + 2]].flatten()
                second.append(torch.cat((states[row], found[OUT] @ before)))
                third.append(states[row + 2])
    fits = {
        OUT: torch.linalg.lstsq(torch.stack(words), torch.stack(after)).solution.T,
        "head 1": torch.linalg.lstsq(torch.stack(second), torch.stack(third)).solution.T,
    }
    ours = {OUT: found[OUT], "head 1": torch.cat([found[name] for name in squares_of(1)], dim=1)}
    for name, expected in fits.items():
        assert float((ours[name] - expected).norm() / expected.norm()) < 0.02, name


@pytest.mark.parametrize("soft", [0.0, 0.5])
def test_the_loss_is_that_of_true_tokens_and_of_the_targets_distribution(
    teacher: Teacher, whole: Rig, soft: float
) -> None:
    """Head 0 drafts the token after the next one, since the target itself has chosen that one."""
    [text] = Made(teacher, 1).texts
    head = fresh(teacher)
    rotary: Any = whole.head._rotary
    with torch.no_grad():
        for part in head.parts.values():
            part += 0.02 * torch.randn(part.shape)
        found = float(chimera_loss(head, rotary, text, teacher, IDS, soft))
        total = 0.0
        for number, step in enumerate(unroll.chimera_steps(head, rotary, text, 3)):
            losses = []
            for place, row in enumerate(range(2, 23 - number)):
                logs = step.logits[place].log_softmax(-1)
                true = (teacher.lm_head @ text.states[0, row + number + 1, -1]).softmax(-1)
                label = int(text.tokens[0, row + number + 1])
                losses.append(float(-logs[label] - soft * (true * logs).sum()))
            assert len(losses) == len(step.logits)
            total += sum(losses) / len(losses) / 3
    assert found == pytest.approx(total, rel=1e-4)


@torch.no_grad()
def test_untrained_matrices_are_those_that_are_published(teacher: Teacher) -> None:
    """Both inputs of each head go to rows of the target's head; the encoder is linear."""
    head = fresh(teacher)
    h, s = torch.randn(2, teacher.config.hidden_size)
    for number in range(3):
        assert torch.allclose(
            head.logits(h, s, number), teacher.lm_head @ h + teacher.lm_head @ s, atol=1e-4
        )
    tokens = torch.tensor([4, 5, 6])
    words = teacher.embed[tokens].flatten()
    assert torch.allclose(head.encoded(tokens), head.part(OUT) @ words, atol=1e-5)
    normed = head._entry(teacher.norm * torch.nn.functional.rms_norm(h, h.shape))
    gain = teacher.layer["layers.0.input_layernorm.weight"]
    expected = torch.nn.functional.rms_norm(h, h.shape) * gain
    assert float(torch.cosine_similarity(normed, expected, dim=0)) > 0.999


@pytest.mark.parametrize("parts", PARTS)
def test_a_head_with_each_part_learns(
    source: Path, recorded: Path, tmp_path: Path, parts: str
) -> None:
    """The loss falls; the file states how often each rank was right."""
    made = trainer(
        source, recorded, tmp_path, replace(recipe("chimera", entry_rate=1.0), **PARTS[parts])
    )
    made._start()
    before = mean_loss(made)
    made.run()
    assert mean_loss(made) < before - 0.02
    tensors: dict[str, Tensor] = made.tensors()
    assert tensors["accuracies"].shape == (4, 10) and tensors["accuracies"].min() >= 0
    assert float(tensors["accuracies"].sum(1).max()) <= 1
    made.config.check(tensors, "of a test")


def mean_loss(made: Any) -> float:
    """The loss of all training texts."""
    ids = made._vocabulary(made.training)
    made.head.lm_head = made.teacher.lm_head[ids]
    with torch.no_grad():
        batch = made.texts.batch(made.training)
        return float(chimera.chimera_loss(made.head, made._rotary, batch, made.teacher, ids, 1.0))


def test_a_trained_head_is_trained_further(source: Path, recorded: Path, tmp_path: Path) -> None:
    first = trainer(source, recorded, tmp_path / "first", recipe("chimera"))
    first.run()
    folder = tmp_path / "head"
    write_head(folder, first.config, first.tensors(), Verifier(), bits=8, card="")
    again = recipe("chimera", start=str(folder), single=1.0, unrolled=0.0)
    second = trainer(source, recorded, tmp_path / "second", again)
    assert "accuracies" not in second.head.tensors()
    assert mean_loss(second) == pytest.approx(mean_loss(first), abs=0.05)
    second.run()
    with pytest.raises(OptionError) as error:
        trainer(source, recorded, tmp_path / "third", replace(again, trigram=False))
    assert "heads, trigram and context (4, True, True), and the recipe (4, False" in line(error)


def test_soft_labels_have_a_weight_of_at_least_zero() -> None:
    for soft in (-1.0, float("nan")):
        with pytest.raises(OptionError) as error:
            recipe("chimera", soft=soft)
        assert "training has soft" in line(error)
    with pytest.raises(OptionError) as error:
        recipe("chimera", bits=4)
    assert "heads of Chimera are written with 8 bits" in line(error)
