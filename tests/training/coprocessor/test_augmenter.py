"""The training of a coprocessor (arXiv 2412.17747): traces, gradients, and what decoding reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from outrider.core.errors import OptionError
from outrider.core.types import Prompt, as_ids
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.latents.augmented import AugmentedModel
from outrider.models.latents.coprocessor import Coprocessor
from outrider.models.llama.decoder import Decoder
from outrider.models.llama.lora import Adapter, with_adapter
from outrider.models.llama.weights import Linear
from outrider.protocols import Segment
from outrider.training.coprocessor.augmenter import Augmenter
from outrider.training.coprocessor.config import CoprocessorRecipe
from outrider.training.coprocessor.fit import traced
from outrider.training.coprocessor.traces import Traces, spread
from outrider.training.coprocessor.train import write
from outrider.training.core.config import Corpus, Stage
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("augmented"), pytest.mark.usefixtures("unchecked")]

IDS = np.array([(7 * i * i + 3) % 280 for i in range(40)])
LATENTS, AHEAD = 4, 6
POINTS = np.array([1, 5, 6, 20])
TEXT = Traces(IDS, POINTS, LATENTS, AHEAD)
OTHER = Traces((IDS * 3 + 1) % 280, np.array([2, 9, 17, 30]), LATENTS, AHEAD)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two kinds of layers, of which one sees only its last eight tokens."""
    windows = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return make_checkpoint(tmp_path_factory.mktemp("coprocessor") / "small", "gemma3", **windows)


@pytest.fixture
def augmenter(source: Path) -> Augmenter:
    """Random updates and soft tokens."""
    made = Augmenter(Decoder.load(source), LATENTS, rank=3, alpha=6.0, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def recipe_of(source: Path, **options: object) -> CoprocessorRecipe:
    stage = Stage(tokens=64, sequence_length=32, batch=2, micro_batch=1, learning_rate=1e-2)
    corpus = Corpus(tokens=1000, sources=(), heldout=())
    given = {"name": "a", "target": str(source), "corpus": corpus, "stage": stage, "rank": 3}
    given |= {"lora_alpha": 6.0, "latents": LATENTS, "ahead": AHEAD, "points": 4}
    return CoprocessorRecipe(**(given | options))  # pyright: ignore[reportArgumentType]


def decoding(source: Path, augmenter: Augmenter, folder: Path) -> AugmentedModel:
    """The model that decoding makes of the files that training writes."""
    write(folder, recipe_of(source), augmenter, {"books": {"without": 1.0, "with": 0.5}})
    read = Coprocessor.read(folder)
    checkpoint = open_checkpoint(source)
    read.check_made_for(checkpoint.fingerprint, "small")
    adapted = Decoder.load(with_adapter(checkpoint, Adapter.load(read.folder)))
    return AugmentedModel(Decoder.load(source), adapted, read.soft, read.scale)


def test_the_masked_form_of_training_equals_decoding(
    source: Path, augmenter: Augmenter, tmp_path: Path
) -> None:
    """All traces of two texts at once, against one prompt after the other at run time."""
    model = decoding(source, augmenter, tmp_path)
    with torch.no_grad():
        losses = augmenter.losses([TEXT, OTHER])
    assert losses.shape == (8, AHEAD)
    places = [(text, point) for text in (TEXT, OTHER) for point in text.points.tolist()]
    for own, (text, point) in zip(losses, places, strict=True):
        [cache] = model.start([Prompt(token_ids=tuple(text.ids[: point + 1].tolist()))])
        tail = text.ids[point + 1 : point + AHEAD]
        [rows] = model.forward([Segment(cache, tail)], [as_ids(range(-1, AHEAD - 1))])
        labels = torch.from_numpy(text.ids[point + 1 : point + 1 + AHEAD])
        wanted = F.cross_entropy(rows.logits, labels, reduction="none")
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4)


def test_without_latents_the_loss_is_that_of_the_target(augmenter: Augmenter) -> None:
    target = augmenter.target
    [cache] = target.start([Prompt(token_ids=(int(IDS[0]),))])
    [rows] = target.forward([Segment(cache, IDS[1:-1])], [as_ids(range(-1, len(IDS) - 2))])
    whole = F.cross_entropy(rows.logits, torch.from_numpy(IDS[1:]), reduction="none")
    wanted = whole[torch.from_numpy(POINTS[:, None] + np.arange(AHEAD))]
    with torch.no_grad():
        plain = augmenter.losses([replace(TEXT, latents=0)])
        torch.testing.assert_close(plain, wanted, rtol=1e-4, atol=1e-4)
        assert (augmenter.losses([TEXT]) - plain).abs().max() > 1e-2


def test_training_begins_with_the_coprocessor_as_the_target(source: Path) -> None:
    """The latents are the target's own last states, as large as its input embeddings."""
    target = Decoder.load(source)
    first = Augmenter(target, LATENTS, 3, 6.0, 0)
    with torch.no_grad():
        trace = Traces(IDS, np.array([5]), LATENTS, AHEAD)
        [latents] = first.latents([trace], first.read([trace]))
    [by_hand] = target.start([Prompt(token_ids=(*IDS[:5].tolist(), 0))])
    by_hand._text.pop()  # the soft tokens follow the five tokens that are read
    segment = Segment(by_hand, as_ids([-1, -2, -3, -4]), prompts=first.soft.detach())
    [rows] = target.forward([segment], [as_ids(range(LATENTS))])
    assert rows.hidden is not None
    wanted = rows.hidden * float(first.scale.detach())
    torch.testing.assert_close(latents, wanted, rtol=1e-4, atol=1e-4)
    embeddings = target.embed(range(280))
    assert 0.3 < float(latents.pow(2).mean() / embeddings.pow(2).mean()) < 3.0
    distances = torch.cdist(first.soft.detach(), target.embed(range(288)))
    assert distances.min(dim=1).values.max() < 1e-4  # they begin as embeddings of tokens


def test_base_weights_get_no_gradient(augmenter: Augmenter) -> None:
    """Every trained number gets one, and a step leaves the target bit for bit as it was."""
    weights = augmenter.target.weights
    frozen = [weights.embed, weights.norm]
    for layer in weights.layers:
        for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down):
            assert isinstance(matrix, Linear)
            frozen.append(matrix.weight)
    before = [one.clone() for one in frozen]
    trained = {id(parameter) for parameter in augmenter.parameters()}
    assert not trained & {id(one) for one in frozen}
    augmenter.losses([TEXT]).mean().backward()
    assert all(one.grad is None and not one.requires_grad for one in frozen)
    for name, parameter in augmenter.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    torch.optim.AdamW(augmenter.parameters(), lr=0.1).step()
    assert all(torch.equal(one, old) for one, old in zip(frozen, before, strict=True))


def test_changing_future_tokens_never_changes_the_latents(augmenter: Augmenter) -> None:
    """Nor another trace: each is what it is alone, whatever stands behind its point."""
    with torch.no_grad():
        latents = augmenter.latents([TEXT], augmenter.read([TEXT]))
        for number, point in enumerate(POINTS.tolist()):
            ids = IDS.copy()
            ids[point:] = (ids[point:] + 11) % 280
            other = Traces(ids, POINTS, LATENTS, AHEAD)
            found = augmenter.latents([other], augmenter.read([other]))
            torch.testing.assert_close(found[: number + 1], latents[: number + 1])
            assert number + 1 == len(POINTS) or (found - latents)[number + 1 :].abs().max() > 1e-3
            alone = replace(TEXT, points=POINTS[number : number + 1])
            own = augmenter.losses([alone])[0]
            torch.testing.assert_close(own, augmenter.losses([TEXT])[number])


def test_gradients_of_a_trace_come_from_its_own_tokens(augmenter: Augmenter) -> None:
    """The loss of one trace reaches its own latents only."""
    read = augmenter.read([TEXT])
    latents = augmenter.latents([TEXT], read).detach().requires_grad_()
    augmenter.latents = lambda texts, read: latents  # type: ignore[method-assign]
    augmenter.losses([TEXT])[1].sum().backward()
    assert latents.grad is not None
    reached = latents.grad.abs().amax(dim=(1, 2)) > 0
    assert reached.tolist() == [False, True, False, False]


def test_positions_continue_and_rows_see_what_was_before() -> None:
    text = Traces(np.arange(20), np.array([2, 5]), 2, 3)
    assert text.positions(5).tolist() == [2, 3, 4, 5, 6, 5, 6, 7, 8, 9]
    assert text.tokens.tolist() == [[2, 3, 4], [5, 6, 7]]
    assert text.labels.tolist() == [[3, 4, 5], [6, 7, 8]]
    seen = text.seen(5)
    assert seen.shape == (10, 15)
    assert np.flatnonzero(seen[2]).tolist() == [0, 1, 5, 6, 7]
    assert np.flatnonzero(seen[5]).tolist() == [0, 1, 2, 3, 4, 10]
    assert np.flatnonzero(text.seen(5, window=3)[5]).tolist() == [3, 4, 10]
    assert np.flatnonzero(text.seen(5, window=3)[9]).tolist() == [12, 13, 14]


def test_points_are_spread_and_leave_room() -> None:
    for seed in range(20):
        points = spread(32, 4, AHEAD, np.random.default_rng(seed))
        assert (np.diff(points) > 0).all() and points[0] >= 1
        assert points[-1] + AHEAD + 1 <= 32
    assert len({tuple(spread(32, 4, AHEAD, np.random.default_rng(s))) for s in range(9)}) > 5
    least = spread(11, 4, AHEAD, np.random.default_rng(0))
    assert least.tolist() == [1, 2, 3, 4]


def test_places_depend_on_the_number_of_the_text_only(source: Path) -> None:
    rows, recipe = np.stack([IDS[:32]] * 4), recipe_of(source)
    whole = [one.points.tolist() for one in traced(rows, recipe, 6)]
    parts = [*traced(rows[:1], recipe, 6), *traced(rows[1:], recipe, 7)]
    assert [one.points.tolist() for one in parts] == whole
    assert len({tuple(points) for points in whole}) > 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"latents": 0}, "latents is 0"),
        ({"ahead": 0}, "ahead is 0"),
        ({"points": 0}, "points is 0"),
        ({"rank": 0}, "rank is 0"),
        ({"points": 26}, "has 25 places"),
        ({"ahead": 60}, "has 0 places"),
    ],
)
def test_what_is_refused(source: Path, options: dict[str, int], problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        recipe_of(source, **options)
