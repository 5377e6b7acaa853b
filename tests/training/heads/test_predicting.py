"""Training of heads that predict states: EAGLE (2401.15077) and FSPAD (2408.15562)."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.heads.config import HeadKind
from outrider.models.heads.module import HeadModule
from outrider.models.llama.rope import RotaryTable
from outrider.training.heads import answers, start
from outrider.training.heads.answers import Text
from outrider.training.heads.data import RecordedTexts
from outrider.training.heads.loss import chain_loss, counted, with_noise
from outrider.training.heads.start import Teacher, fit_states, fresh_head
from outrider.training.heads.unroll import unroll
from tests.models.heads.setups import VOCAB, make_module, make_target, random_text

eagle1, fspad = pytest.mark.method("eagle1"), pytest.mark.method("fspad")
LAYERS, WIDTH, PROMPT = 4, 32, 6
IDS = torch.arange(VOCAB)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    return Teacher.of(open_checkpoint(make_target(tmp_path_factory.mktemp("target"))))


def fresh(teacher: Teacher, kind: HeadKind, **options: Any) -> HeadModule:
    torch.manual_seed(3)
    table = np.full(VOCAB, -1)
    config, tensors = fresh_head(
        teacher, kind, (LAYERS,), IDS.numpy(), table, random=False, **options
    )
    return make_module(config, tensors, teacher)


def rotary(head: HeadModule) -> RotaryTable:
    return RotaryTable(head.config.layer.rope, torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def linear(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> RecordedTexts:
    """Texts in which the next final state is a known function of this one and of the token."""
    folder = tmp_path_factory.mktemp("texts")
    generator = torch.Generator().manual_seed(7)
    keep = torch.randn(WIDTH, WIDTH, generator=generator) * 0.6 / WIDTH**0.5
    read = torch.randn(WIDTH, WIDTH, generator=generator) * 2 / WIDTH**0.5
    shift = torch.randn(WIDTH, generator=generator) * 0.3
    texts: list[Text] = []
    for number in range(24):
        ids = torch.tensor(random_text(60, number), dtype=torch.int32)
        state, rows = torch.randn(WIDTH, generator=generator), list[Tensor]()
        for token in ids[1:].long():
            rows.append(torch.stack((torch.zeros(WIDTH), state)))
            state = keep @ state + read @ teacher.embed[token] + shift
        texts.append(Text(number, "made", ids, PROMPT, torch.stack(rows).half()))
    answers.save_texts(folder / "texts-00000.safetensors", texts)
    return RecordedTexts(folder, VOCAB, 3, hints=False)


@eagle1
def test_states_are_read_with_the_token_that_follows_them(
    teacher: Teacher, linear: RecordedTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The linear start predicts all states of a chain; one place off, in any part, it cannot."""
    monkeypatch.setattr(start, "_RIDGE", 1e-4)
    head = fresh(teacher, HeadKind.EAGLE1)
    fit_states(head, linear, linear.places)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        head.part(f"layers.0.{name}.weight").data.zero_()
    batch = linear.batch(linear.places[:4])
    true = batch.states[:, :, -1]
    with torch.no_grad():
        for step, found in enumerate(unroll(head, rotary(head), batch, 3)):
            rows = batch.at(step + 1)[..., None].expand(-1, -1, WIDTH)
            assert float((found.outputs - true.gather(1, rows)[found.valid]).abs().max()) < 0.05
            wrong = true.gather(1, batch.at(step)[..., None].expand(-1, -1, WIDTH))[found.valid]
            assert float((found.outputs - wrong).abs().max()) > 1
            # the last chains of a text have no label
            assert int(found.valid.sum()) == 4 * (60 - PROMPT - 1 - step)
        head.lm_head = teacher.lm_head[IDS]
        right = counted(head, rotary(head), linear.batch(linear.places[:1]), teacher.lm_head, IDS)
    # random tokens do not follow from the states: right ones are luck
    assert right.tokens == 60 - PROMPT - 1 and right.rounds[0] > 0.8 * right.tokens


@eagle1
def test_the_loss_is_the_distance_of_states_and_a_tenth_of_the_cross_entropy(
    teacher: Teacher, linear: RecordedTexts
) -> None:
    head = fresh(teacher, HeadKind.EAGLE1)
    batch = linear.batch(linear.places[:2])
    head.lm_head = teacher.lm_head[IDS]
    with torch.no_grad():
        found = float(chain_loss(head, rotary(head), batch, teacher, IDS, 1))
        [step] = unroll(head, rotary(head), batch, 1)
    rows = torch.cat([batch.states[i, PROMPT : 60 - 1, -1] for i in range(2)])
    off = (step.outputs[step.valid.flatten()[: len(step.outputs)]] - rows).abs()
    distance = torch.where(off < 1, off**2 / 2, off - 0.5).mean()
    probs = (rows @ teacher.lm_head.T).softmax(-1)
    cross = -(probs * (step.outputs @ teacher.lm_head.T).log_softmax(-1)).sum(-1).mean()
    assert found == pytest.approx(float(distance + 0.1 * cross), rel=1e-5)


@eagle1
def test_noise_is_on_what_the_head_reads_and_not_on_labels(
    teacher: Teacher, linear: RecordedTexts
) -> None:
    batch = linear.batch(linear.places[:2])
    noisy = with_noise(batch, 0.2, 5)
    off = (noisy.states - batch.states).abs()
    most = 0.1 * 512 / batch.tokens.shape[1]
    assert 0.9 * most < float(off[:, :, -1].max()) <= most
    assert not off[:, :, 0].any()
    assert torch.equal(with_noise(batch, 0.2, 5).states, noisy.states)
    assert not torch.equal(with_noise(batch, 0.2, 6).states, noisy.states)
    head = fresh(teacher, HeadKind.EAGLE1)
    head.lm_head = teacher.lm_head[IDS]
    args = (head, rotary(head), batch, teacher, IDS, 1)
    with torch.no_grad():
        assert float(chain_loss(*args, noisy)) != float(chain_loss(*args))
    for name in ("fc.weight", "fc.bias"):  # a head that reads nothing sees no noise
        head.part(name).data.zero_()
    with torch.no_grad():
        assert float(chain_loss(*args, noisy)) == float(chain_loss(*args))


@fspad
def test_training_begins_as_that_of_eagle(teacher: Teacher, linear: RecordedTexts) -> None:
    """From one seed, all variants have equal weights, equal losses, and other first gradients."""
    plain = fresh(teacher, HeadKind.EAGLE1)
    batch = linear.batch(linear.places[:2])
    losses: list[float] = []
    for options in ({}, {"sampling": True}, {"alignment": True}):
        kind = HeadKind.FSPAD if options else HeadKind.EAGLE1
        head = fresh(teacher, kind, **options)
        for name, tensor in plain.tensors().items():
            assert torch.equal(head.part(name), tensor), name
        head.lm_head = teacher.lm_head[IDS]
        loss = chain_loss(head, rotary(head), batch, teacher, IDS, 2)
        loss.backward()
        losses.append(loss.item())
        own = {name for name in head.tensors() if name.startswith(("sampling", "alignment"))}
        still = {name for name in own if not head.part(name).grad.any()}  # pyright: ignore
        # at zero only the last matrix of each part learns; the others follow
        assert own - still == set(
            {"sampling": ["sampling.down.weight"], "alignment": ["alignment.up.weight"]}.get(
                next(iter(options), ""), []
            )
        )
    assert len(set(losses)) == 1


@eagle1
def test_attention_reads_final_states_as_the_last_layer_reads_its_input(teacher: Teacher) -> None:
    """Queries of a final state equal those of the target's last layer for its normed input."""
    head = fresh(teacher, HeadKind.EAGLE1)
    stream = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(2))
    unit = F.rms_norm(stream, (WIDTH,))
    queries, _, _ = head.project(unit * teacher.norm)
    gain = teacher.layer["layers.0.input_layernorm.weight"]
    expected = (unit * gain) @ teacher.layer["layers.0.self_attn.q_proj.weight"].T
    assert torch.allclose(queries.flatten(1), expected, atol=1e-4)
