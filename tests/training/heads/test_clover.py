"""Training of Clover heads (Clover-2, arXiv 2408.00264): steps, loss and start."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.clover.config import ENTER, HEAD_NORM, STEP
from outrider.models.heads.clover.module import CloverModule
from outrider.models.heads.formats.head_file import Verifier
from outrider.models.heads.formats.writing import write_head
from outrider.models.llama.rope import RotaryTable
from outrider.training.heads import answers, start
from outrider.training.heads.answers import Text
from outrider.training.heads.config import HeadRecipe
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.kinds.clover import fit_clover, fresh_clover
from outrider.training.heads.loss import chain_loss
from outrider.training.heads.start import Teacher
from outrider.training.heads.unroll import Texts, unroll
from tests.models.heads.clover.setups import SHAPES, clover_module, clover_rig
from tests.models.heads.setups import LAYERS, VOCAB, Rig, make_target, random_text
from tests.training.heads.setups import line, recipe, trainer

pytestmark = pytest.mark.method("clover")

STEPS, PROMPT, WIDTH = 4, 7, 32
TEXTS = (random_text(22, 3), random_text(15, 4))
TOLERANCE = 2e-5
IDS = torch.arange(VOCAB)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return Teacher.of(open_checkpoint(folder))


def rotary(head: CloverModule) -> RotaryTable:
    return RotaryTable(head.config.layer.rope, torch.float32, torch.device("cpu"))


def read(rig: Rig) -> Texts:
    """The two texts as training reads them: the shorter one is padded."""
    length = max(map(len, TEXTS)) - 1
    starts = max(len(text) - PROMPT - 1 for text in TEXTS)
    states, tokens = torch.zeros(2, length, 1, WIDTH), torch.zeros(2, length).long()
    for i, text in enumerate(TEXTS):
        states[i, : len(text) - 1] = rig.head._states.kept(rig.reads(text), 0, len(text) - 1)
        tokens[i, : len(text) - 1] = torch.tensor(text[1:])
    none = torch.zeros(2, length, STEPS).long()
    rows = (PROMPT - 1 + torch.arange(starts)).clamp(max=length - 1).repeat(2, 1)
    counts = torch.tensor([len(text) - PROMPT - 1 for text in TEXTS])
    return Texts(states, tokens, rows, counts, none, none)


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_recurrent_step_equals_the_unrolled_training_step(folder: Path, name: str) -> None:
    """Logits of each chain of both texts, in decoding one token at a time and in training."""
    rig = clover_rig(folder, name)
    head, ids = rig.module, rig.tensors["ids"].long()
    assert isinstance(head, CloverModule)
    with torch.no_grad():
        found = list(unroll(head, rotary(head), read(rig), STEPS))
    assert len(found) == min(STEPS, head.config.longest or STEPS)
    chains = 0
    for i, text in enumerate(TEXTS):
        for first in range(len(text) - PROMPT - 1):
            steps = min(len(found), len(text) - PROMPT - 1 - first)
            cache = rig.head.follow(rig.reads(text))
            row = PROMPT - 1 + first
            cache.commit(torch.tensor(text[1 : row + 2]).numpy())
            decoded = [rig.rows(cache)[:, ids]]
            for at in range(row + 2, row + steps + 1):
                decoded.append(rig.rows(cache, text[at : at + 1])[:, ids])
            for step, logits in enumerate(decoded):
                valid = found[step].valid
                place = int(valid.flatten()[: i * valid.shape[1] + first].sum())
                off = (found[step].logits[place] - logits[0]).abs().max()
                assert valid[i, first] and float(off) < TOLERANCE, (i, first, step)
                chains += 1
    assert chains > 50


def asked(**options: Any) -> HeadRecipe:
    shape = {n: options.pop(n) for n in ("layers", "regressive") if n in options}
    return replace(recipe("clover", **options), **shape)


def fresh(teacher: Teacher, **options: Any) -> CloverModule:
    torch.manual_seed(3)
    config, tensors = fresh_clover(teacher, LAYERS, IDS.numpy(), asked(**options))
    return clover_module(config, tensors, teacher)


def silent(head: CloverModule) -> None:
    """Let the layers add nothing."""
    for name, part in head.parts.items():
        if name.endswith(("o_proj/weight", "down_proj/weight")):
            part.data.zero_()


@pytest.fixture(scope="module")
def linear(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> RecordedTexts:
    """Texts in which the next final state is a known function of this one and of the token."""
    folder = tmp_path_factory.mktemp("texts")
    generator = torch.Generator().manual_seed(7)
    keep = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q
    read = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    texts: list[Text] = []
    for number in range(24):
        ids = torch.tensor(random_text(60, number), dtype=torch.int32)
        state, rows = torch.randn(WIDTH, generator=generator), list[Tensor]()
        for token in ids[1:].long():
            rows.append(torch.stack((torch.zeros(WIDTH), state * teacher.norm)))
            state = keep @ state + read @ teacher.embed[token]
            state = state / state.square().mean().sqrt()
        texts.append(Text(number, "made", ids, PROMPT, torch.stack(rows).half()))
    answers.save_texts(folder / "texts-00000.safetensors", texts)
    return RecordedTexts(folder, VOCAB, 3, hints=False)


def off(head: CloverModule, batch: Texts, steps: int) -> list[float]:
    """The mean absolute distance of predicted states to those of each step's own place."""
    true = batch.states[:, :, -1]
    found: list[float] = []
    with torch.no_grad():
        for step, one in enumerate(unroll(head, rotary(head), batch, steps)):
            rows = batch.at(step + 1)[..., None].expand(-1, -1, WIDTH)
            found.append(float((one.outputs - true.gather(1, rows)[one.valid]).abs().mean()))
    return found


@pytest.mark.parametrize("regressive", [True, False])
def test_the_fit_predicts_the_states_of_each_place(
    teacher: Teacher, linear: RecordedTexts, monkeypatch: pytest.MonkeyPatch, regressive: bool
) -> None:
    """Each head that reads what it needs is nearer to its own place than before the fit."""
    monkeypatch.setattr(start, "_RIDGE", 1e-2)
    head = fresh(teacher, layers=1, steps=3, regressive=regressive)
    silent(head)
    batch = linear.batch(linear.places[:4])
    before = off(head, batch, 3)
    fit_clover(head, linear, linear.places, 3)
    after = off(head, batch, 3)
    assert after[0] < 0.5 * before[0]
    assert all(b < 0.85 * a for a, b in zip(before, after, strict=True))


def test_a_start_of_the_paper_copies_the_last_layer(teacher: Teacher) -> None:
    """Without the ridge fit: layers are whole copies, heads and gates are near the identity."""
    head = fresh(teacher, layers=2, ridge=False)
    for number in range(2):
        for name in ("self_attn.o_proj", "self_attn.q_proj", "mlp.down_proj", "mlp.gate_proj"):
            theirs = teacher.layer[f"layers.0.{name}.weight"]
            assert torch.equal(head.part(f"layers.{number}.{name}.weight"), theirs)
    eye = torch.eye(WIDTH)
    for name in (f"{ENTER}.query", f"{STEP}.key", "first", "later"):
        near = head.part(f"{name}.weight").detach()[:, :WIDTH]
        assert float((near - eye).abs().max()) < 0.06
    for name in (ENTER, STEP):
        assert 0 < float(head.part(f"{name}.value.weight").detach().abs().max()) < 0.06
    assert torch.equal(head.part(HEAD_NORM), teacher.norm)
    quiet = fresh(teacher, layers=1)
    theirs = teacher.layer["layers.0.mlp.down_proj.weight"]
    assert float(quiet.part("layers.0.mlp.down_proj.weight").detach().norm()) < 0.2 * float(
        theirs.norm()
    )


def test_layers_read_final_states_as_the_last_layer_reads_its_input(teacher: Teacher) -> None:
    head = fresh(teacher, layers=1)
    unit = torch.randn(500, WIDTH, generator=torch.Generator().manual_seed(2))
    unit = unit / unit.square().mean(-1, keepdim=True).sqrt()
    read = head.layer(0).norm(unit * teacher.norm, "input_layernorm.weight").detach()
    theirs = unit * teacher.layer["layers.0.input_layernorm.weight"]
    assert torch.nn.functional.cosine_similarity(read, theirs).min() > 0.99
    assert float(read.norm() / theirs.norm()) == pytest.approx(1, abs=0.1)


def test_the_loss_is_ten_distances_and_the_cross_entropy_with_a_decay(
    teacher: Teacher, linear: RecordedTexts
) -> None:
    """`sum_i 0.7^i (10 SmoothL1 + CE)`, over the sum of its weights."""
    head = fresh(teacher, layers=1)
    for part in head.parts.values():
        part.data += 0.05 * torch.randn(part.shape)
    batch = linear.batch(linear.places[:1])
    head.lm_head = teacher.lm_head[IDS]
    with torch.no_grad():
        found = float(chain_loss(head, rotary(head), batch, teacher, IDS, 3))
        steps = list(unroll(head, rotary(head), batch, 3))
    total = 0.0
    for step, one in enumerate(steps):
        rows = batch.states[0, PROMPT + step :, -1][: len(one.outputs)]
        apart = (one.outputs - rows).abs()
        distance = torch.where(apart < 1, apart**2 / 2, apart - 0.5).mean()
        probs = (rows @ teacher.lm_head.T).softmax(-1)
        cross = -(probs * (one.outputs @ teacher.lm_head.T).log_softmax(-1)).sum(-1).mean()
        total += 0.7**step * float(10 * distance + cross)
    assert found == pytest.approx(total / (1 + 0.7 + 0.49), rel=1e-5)


def test_all_heads_are_trained_in_both_parts(source: Path, recorded: Path, tmp_path: Path) -> None:
    """A pass of single steps trains the later heads too, and every tensor learns."""
    made = trainer(source, recorded, tmp_path / "run", asked(layers=1, single=1.0, unrolled=0.0))
    made._start()
    before = {name: tensor.clone() for name, tensor in made.head.tensors().items()}
    made.run()
    still = [n for n, tensor in made.head.tensors().items() if torch.equal(tensor, before[n])]
    assert still == []


def test_faulty_recipes(source: Path, recorded: Path, tmp_path: Path) -> None:
    for options, message in (({"layers": 9}, "layers is 9"), ({"bits": 4}, "written with 8 bits")):
        with pytest.raises(OptionError) as error:
            asked(**options)
        assert message in line(error)
    made = trainer(source, recorded, tmp_path / "run", asked(layers=1))
    rotary = open_checkpoint(source).config
    write_head(
        tmp_path / "h", made.config, made.tensors(), Verifier(), bits=None, card="", rotary=rotary
    )
    again = str(tmp_path / "h")
    trainer(source, recorded, tmp_path / "on", asked(layers=1, start=again))
    with pytest.raises(OptionError) as error:
        trainer(source, recorded, tmp_path / "other", asked(layers=2, start=again))
    assert "holds Clover heads with layers 1" in line(error)
