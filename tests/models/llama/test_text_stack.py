"""Text parts of image-text checkpoints answer questions with images as the whole model does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider import kernels
from outrider.core.layers import LayerSet
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.models.caches.attaching import attach
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.cpu.native import NativeDecoder
from outrider.models.llama.text_stack import text_checkpoint
from outrider.protocols import ChainRequest, Segment
from outrider.sampling import Sampler, SamplingParams
from tests.models.setups.drafts import TREE_PARENTS, TREE_TOKENS, random_draft, random_emission
from tests.models.setups.looking import PICTURES, Look, Looker
from tests.models.setups.reference import close, next_logits, random_ids, tree_logits
from tests.models.setups.runners import load, runner_cases
from tests.models.setups.vision_checkpoints import FAMILIES, image_id, make_vision_checkpoint

TOLERANCE = {"decoder": 5e-5, "static": 5e-5, "native": 1e-3}
"""How near `transformers` in float64 must be, whose angles are float32."""


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def path(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vision_checkpoint(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def looks(path: Path) -> dict[str, Look]:
    looker = Looker(path)
    return {name: looker.look("what is it", images) for name, images in PICTURES.items()}


@pytest.fixture(scope="module")
def text(path: Path) -> Checkpoint:
    found = text_checkpoint(open_checkpoint(path))
    assert found is not None
    return found


@pytest.fixture(scope="module", params=runner_cases(TOLERANCE))
def runner(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(text: Checkpoint, runner: str) -> Any:
    return load(runner, text)


@pytest.fixture(scope="module")
def near(runner: str) -> float:
    return TOLERANCE[runner]


@pytest.mark.parametrize("image_processor", PICTURES)
def test_answers_are_those_of_the_whole(
    model: Any, near: float, looks: dict[str, Look], image_processor: str
) -> None:
    look = looks[image_processor]
    [cache] = model.start([look.prompt])
    tokens = [65, 66, 70, 3]
    segment = Segment(cache, as_ids(tokens))
    [rows] = model.forward([segment], [np.arange(-1, len(tokens))])
    close(rows.logits.double(), look.logits(tokens)[len(look.prompt) - 1 :], near)


def test_qwen_texts_run_behind_their_indices(
    model: Any, family: str, looks: dict[str, Look]
) -> None:
    """What the test above needs to see: places that are shared, and fewer than tokens."""
    [cache] = model.start([looks["two"].prompt])
    length = len(cache.text)
    assert (cache.places.lag > 0) == (cache.places.axes is not None) == family.startswith("qwen")
    assert cache.places.at(length) == length - cache.places.lag
    assert cache.remaining == model.info.context_length - length


def test_trees_below_images(model: Any, near: float, looks: dict[str, Look]) -> None:
    look = looks["two"]
    [cache] = model.start([look.prompt])
    found = tree_logits(model, cache, TREE_TOKENS, TREE_PARENTS)
    close(found.double(), look.node_logits((), TREE_TOKENS, TREE_PARENTS), near)


@pytest.mark.parametrize("chunk", [5, 16])
def test_batches_of_prompts_with_and_without_images(
    model: Any,
    near: float,
    looks: dict[str, Look],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks end within images; texts without images are read in the same forwards."""
    monkeypatch.setattr("outrider.models.caches.prefill.PREFILL_CHUNK", chunk)
    plain = Prompt(token_ids=random_ids(23))
    prompts = [looks["two"].prompt, plain, looks["one"].prompt]
    caches = model.start(prompts)
    tokens = as_ids([7, 8])
    rows = model.forward([Segment(c, tokens) for c in caches], [np.arange(-1, 2)] * 3)
    for row, look in ((rows[0], looks["two"]), (rows[2], looks["one"])):
        close(row.logits.double(), look.logits([7, 8])[-3:], near)
    with torch.no_grad():
        ids = torch.tensor([[*plain.token_ids, 7, 8]])
        expected = looks["one"].whole(input_ids=ids, use_cache=False).logits[0, -3:]
    close(rows[1].logits.double(), expected, near)


def test_rounds_forks_and_rollbacks(model: Any, near: float, looks: dict[str, Look]) -> None:
    """Whatever was drafted, refused, forked or cut: the next answer is that of the whole."""
    rng = np.random.default_rng(0)
    own = [looks["one"], looks["two"]]
    caches = model.start([look.prompt for look in own])
    for turn in range(4):
        drafts = [random_draft(rng, model.info.vocab_size) for _ in caches]
        pairs = [attach(c, NO_IDS, d) for c, d in zip(caches, drafts, strict=True)]
        model.forward([s for s, _ in pairs], [w for _, w in pairs])
        for cache, draft, look in zip(caches, drafts, own, strict=True):
            cache.commit(random_emission(rng, draft))
            if turn == 2:
                cache.truncate(int(rng.integers(len(look.prompt), len(cache.text) + 1)))
        caches[turn % 2] = caches[turn % 2].fork()
        for cache, look in zip(caches, own, strict=True):
            twin = cache.fork()
            expected = look.after(cache.text[len(look.prompt) :])
            close(next_logits(model, twin).double(), expected, near)


def test_borrowed_caches_stand_where_their_owner_stands(
    model: Any, near: float, looks: dict[str, Look]
) -> None:
    look = looks["one"]
    [cache] = model.start([look.prompt])
    cache.commit([5])
    borrowed = model.borrow(cache)
    part = model.subset(LayerSet.everything(2))
    close(next_logits(part, borrowed).double(), look.after([5]), near)
    [rows] = part.forward([Segment(borrowed, as_ids([9]))], [as_ids([0])])
    close(rows.logits[0].double(), look.after([5, 9]), near)


def test_writing_goes_on_behind_images(model: Any, near: float, looks: dict[str, Look]) -> None:
    if model.chain_decoder is None:
        pytest.skip("writes by single forwards")
    look, sampler = looks["two"], Sampler(SamplingParams())
    [cache] = model.start([look.prompt])
    [tokens] = model.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, [], 6)])
    logits = look.logits(tokens[:-1])[len(look.prompt) - 1 :]
    best = logits.gather(1, torch.from_numpy(tokens)[:, None])[:, 0]
    close(best, logits.amax(dim=1), 2 * near)
    cache.commit(tokens)
    close(next_logits(model, cache).double(), look.after(tokens.tolist()), near)


def test_writing_ends_with_the_window(model: Any, looks: dict[str, Look]) -> None:
    """By the number of tokens, as a text without images would."""
    if model.chain_decoder is None:
        pytest.skip("writes by single forwards")
    [cache] = model.start([looks["two"].prompt])
    cache.commit(as_ids(random_ids(cache.remaining - 3)))
    sampler = Sampler(SamplingParams())
    [tokens] = model.write_chains([ChainRequest(Segment(cache, NO_IDS), sampler, [], 9)])
    assert len(tokens) == 4  # three that are read, and one that follows them
    cache.commit(tokens)
    assert cache.remaining == -1


def test_images_are_read_anew_in_the_next_turn(
    model: Any, near: float, family: str, looks: dict[str, Look]
) -> None:
    """Ids do not tell what an image showed."""
    look = looks["one"]
    [cache] = model.start([look.prompt])
    [again] = model.start([look.prompt], [cache])
    close(next_logits(model, again).double(), look.after(), near)
    [bare] = model.start([Prompt(token_ids=look.prompt.token_ids)], [again])
    assert bare.places.axes is None and bare.places.shift == 0
    assert image_id(family) in bare.text


def test_int8_hears_of_the_images(text: Checkpoint, looks: dict[str, Look]) -> None:
    """Coarse, but far nearer to the answer with the images than to the one with ids alone."""
    if not kernels.available():
        pytest.skip(kernels.reason_missing())
    model = NativeDecoder.load(text, dtype=torch.int8, threads=1)
    prompt = looks["one"].prompt
    prompts = [prompt, Prompt(token_ids=prompt.token_ids, axes=prompt.axes)]
    seen, unseen = (next_logits(model, cache).double() for cache in model.start(prompts))
    expected = looks["one"].after()
    assert float((seen - expected).norm()) < 0.3 * float((unseen - expected).norm())
