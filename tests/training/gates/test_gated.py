"""A frozen model whose KV heads mix full and local attention (RLKV, arXiv 2510.08525)."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from outrider.core.errors import ContextError
from outrider.core.types import Prompt, as_ids
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.weights import Linear
from outrider.protocols import Segment
from outrider.training.gates.gated import Gated, TextCache
from tests.models.setups.make_checkpoints import make_checkpoint

IDS = torch.tensor([[(7 * i * i + 3 * row) % 280 for i in range(24)] for row in range(2)])
KINDS = ("llama", "gemma2", "gemma3")
"""The last two have windows; gemma2 bounds its scores."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gated")
    for kind in KINDS:
        own = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 12}
        make_checkpoint(place / kind, kind, **({} if kind == "llama" else own))
    make_checkpoint(place / "one", num_hidden_layers=1)
    return place


def model(folder: Path, kind: str = "llama", sinks: int = 2, recent: int = 5) -> Gated:
    return Gated(Decoder.load(folder / kind), sinks, recent)


def gates_of(gated: Gated, value: float) -> Tensor:
    return torch.full(gated.shape, float(value))


@pytest.mark.parametrize("kind", KINDS)
def test_gates_of_1_are_full_attention(folder: Path, kind: str) -> None:
    gated = model(folder, kind)
    found = gated.logits(gated.hidden(IDS, gates_of(gated, 1)))
    for ids, own in zip(IDS.tolist(), found, strict=True):
        [cache] = gated.target.start([Prompt(token_ids=tuple(ids[:1]))])
        segment = Segment(cache, as_ids(ids[1:]))
        [rows] = gated.target.forward([segment], [as_ids(range(-1, len(ids) - 1))])
        torch.testing.assert_close(own, rows.logits, rtol=1e-4, atol=1e-4)
    assert (gated.logits(gated.hidden(IDS, gates_of(gated, 0))) - found).abs().max() > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_any_gates_leave_a_text_as_it_is_that_sinks_and_recent_tokens_hold(
    folder: Path, kind: str
) -> None:
    gated = model(folder, kind, sinks=2, recent=9)
    drawn = torch.rand(gated.shape, generator=torch.Generator().manual_seed(0))
    for gates in (drawn, drawn.round(), gates_of(gated, 0)):
        short = gated.hidden(IDS[:, :11], gates)
        assert torch.equal(short, gated.hidden(IDS[:, :11], gates_of(gated, 1)))
    longer = gated.hidden(IDS[:, :12], drawn) - gated.hidden(IDS[:, :12], gates_of(gated, 1))
    assert longer[:, :11].abs().max() == 0 and longer[:, 11].abs().max() > 0


def test_a_head_with_gate_0_reads_sinks_and_recent_tokens_only(folder: Path) -> None:
    gated = model(folder, "one", sinks=2, recent=5)
    base, read = gated.hidden(IDS[:1], gates_of(gated, 0))[0, 20], list[int]()
    for place in range(24):
        other = IDS[:1].clone()
        other[0, place] += 1
        if not torch.equal(gated.hidden(other, gates_of(gated, 0))[0, 20], base):
            read.append(place)
    assert read == [0, 1, 16, 17, 18, 19, 20]


def test_each_kv_head_mixes_by_its_own_gate(folder: Path) -> None:
    gated = model(folder, "one")
    layer = gated.target.weights.layers[0]
    output, seen = layer.output, list[Tensor]()

    def recorded(x: Tensor) -> Tensor:
        seen.append(x)
        return output(x)

    layer.output = recorded  # type: ignore[assignment]
    for gates in ([1.0, 1.0], [0.0, 0.0], [0.25, 0.75]):
        gated.hidden(IDS, torch.tensor([gates]))
    full, local, mixed = seen
    # Four query heads of size 8: the first two share the first KV head.
    share = torch.tensor([0.25] * 16 + [0.75] * 16)
    torch.testing.assert_close(mixed, share * full + (1 - share) * local)
    assert (full - local).abs().max() > 1e-3


def test_reading_in_parts_equals_reading_at_once(folder: Path) -> None:
    for kind in KINDS:
        gated = model(folder, kind)
        gates = torch.rand(gated.shape, generator=torch.Generator().manual_seed(1))
        cache = TextCache()
        parts = [gated.hidden(part, gates, cache) for part in IDS.split((9, 1, 14), dim=1)]
        whole = gated.hidden(IDS, gates)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
        assert cache.length == 24
        written = gated.write(IDS[:, :9], gates, 3)
        again = IDS[:, :9]
        for _ in range(3):
            best = gated.logits(gated.hidden(again, gates))[:, -1].argmax(-1, keepdim=True)
            again = torch.cat((again, best), 1)
        assert torch.equal(written, again[:, 9:])


def test_samples_come_with_their_probabilities(folder: Path) -> None:
    gated = model(folder)
    gates = gates_of(gated, 0.5).requires_grad_()

    def drawn(seed: int, temperature: float) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return gated.sample(IDS[:, :12], gates, 3, 4, temperature, generator)

    ids, logs = drawn(0, 0.7)
    assert ids.shape == logs.shape == (8, 3)
    texts = torch.cat((IDS[:, :12].repeat_interleave(4, 0), ids), 1)
    rows = gated.logits(gated.hidden(texts[:, :-1], gates)[:, 11:]) / 0.7
    true = rows.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(logs, true, rtol=1e-4, atol=1e-4)
    [own], [again] = (torch.autograd.grad(one.sum(), gates) for one in (logs, true))
    torch.testing.assert_close(own, again, rtol=1e-3, atol=1e-4)
    assert torch.equal(drawn(0, 0.7)[0], ids) and not torch.equal(drawn(1, 0.7)[0], ids)
    cold = drawn(0, 1e-4)[0].view(2, 4, 3)
    assert torch.equal(cold[:, 0], gated.write(IDS[:, :12], gates, 3))
    assert (cold == cold[:, :1]).all()


def test_no_gradient_reaches_the_model(folder: Path) -> None:
    gated = model(folder)
    gates = gates_of(gated, 0.5).requires_grad_()
    gated.hidden(IDS, gates).square().sum().backward()
    assert gates.grad is not None and (gates.grad != 0).all()
    weights = gated.target.weights
    matrices = [m for one in weights.layers for m in (one.qkv, one.output, one.gate_up, one.down)]
    tensors = [m.weight for m in matrices if isinstance(m, Linear)]
    assert len(tensors) == 8
    for tensor in (*tensors, weights.embed, weights.norm):
        assert not tensor.requires_grad and tensor.grad is None


def test_a_text_beyond_the_window_is_refused(folder: Path) -> None:
    gated = model(folder)
    with pytest.raises(ContextError, match="257 tokens do not fit"):
        gated.hidden(torch.zeros(1, 257, dtype=torch.long), gates_of(gated, 1))
