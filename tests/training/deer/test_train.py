"""Training for DEER (arXiv 2512.15176): rows, losses, both stages, and what is written."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import Prompt, as_ids
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment
from outrider.training.core.config import read_table
from outrider.training.core.loop import StopSignal, TrainingStopped
from outrider.training.deer.blocks import MASK, all_masked, rows_of, seen, some_masked
from outrider.training.deer.config import DeerRecipe, StageRecipe
from outrider.training.deer.fit import Samples, fit, rates_of
from outrider.training.deer.masked import MaskedModel
from outrider.training.deer.train import train, write
from outrider.training.heads.prompts import PromptFile
from outrider.training.heads.recording import Example
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("deer"), pytest.mark.usefixtures("unchecked")]

IDS = np.array([(7 * i * i + 3) % 280 for i in range(24)])
FIRST, BLOCK = 5, 4
EXAMPLE = Example(IDS, FIRST)
FILE = PromptFile(name="a", file="a.jsonl", form="question", share=1.0, licence="MIT")
STAGE = StageRecipe(passes=4, learning_rate=3e-3)
RECIPE = DeerRecipe(
    name="small",
    target="target",
    draft="draft",
    prompts=(FILE,),
    first=STAGE,
    second=STAGE,
    block=BLOCK,
    cuts=3,
    texts=2,
    held_out=2,
)
ways = pytest.mark.parametrize("both", [True, False])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("deer") / "small", "llama", tokenizer=True)


def texts(count: int) -> list[Example]:
    """Texts of one cycle of tokens, which are easy to learn."""
    return [Example((np.arange(20) + 3 * i) % 12 + 30, 4) for i in range(count)]


def decoded(model: Decoder, cut: int, size: int, both: bool, mask: torch.Tensor) -> torch.Tensor:
    """The logits of a block behind a place of `IDS`, as decoding computes them."""
    [cache] = model.start([Prompt(token_ids=tuple(IDS[: cut + 1].tolist()))])
    segment = Segment(cache, as_ids([-1] * (size - 1)), prompts=mask[None], both=both)
    return model.forward([segment], [as_ids(range(-1, size - 1))])[0].logits


@ways
def test_logits_are_those_of_decoding(both: bool, source: Path) -> None:
    """Of several blocks of a text at once, beside a longer text."""
    model, runner = MaskedModel.load(source, both), Decoder.load(source)
    blocks = [all_masked(6, 4, 1), all_masked(11, 1, 1), all_masked(15, 3, 1)]
    longer = Example(np.concatenate((IDS, IDS)), FIRST)
    with torch.no_grad():
        found = model.logits([rows_of(EXAMPLE, blocks), rows_of(longer, blocks)])[:8]
    mask = model.mask.detach()
    wanted = [decoded(runner, b.cut, len(b.masked), both, mask) for b in blocks]
    torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-4, atol=1e-4)


def test_rows_and_labels() -> None:
    masked = all_masked(8, 3, 1.01)
    rows = rows_of(EXAMPLE, [masked], plain=1.0)
    assert rows.ids[-2:].tolist() == [MASK, MASK] and rows.positions[-2:].tolist() == [9, 10]
    assert rows.labels[-3:].tolist() == IDS[9:12].tolist()
    assert rows.at[-3:].tolist() == [8, 23, 24]  # the row of the cut, then those of the masks
    np.testing.assert_allclose(rows.weights[-3:] * 3, [1.01**2, 1.01, 1], rtol=1e-6)
    plain = rows.labels[:-3]
    assert plain.tolist() == IDS[FIRST + 1 :].tolist()
    assert rows.weights[:-3].sum() == pytest.approx(1)
    for both in (True, False):
        matrix = seen(rows, both)
        assert matrix[:23, :23].tolist() == np.tri(23, dtype=bool).tolist()
        assert not matrix[:23, 23:].any()  # the text reads no mask
        assert matrix[23:, :9].all() and not matrix[23:, 9:23].any()  # masks read up to the cut
        assert matrix[23, 24] == both and matrix[24, 23]


def test_the_loss_of_stage_1_is_that_of_masked_diffusion() -> None:
    """-(1/(t L)) times the sum over masked tokens: its mean weight is 1 for any t."""
    rng, weights, shares = np.random.default_rng(0), [], []
    for _ in range(4000):
        block = some_masked(6, 5, rng)
        assert (block.weights > 0).tolist() == block.masked.tolist()
        assert len(set(block.weights[block.masked].tolist())) <= 1
        weights.append(block.weights.sum())
        shares.append(block.masked.mean())
    assert np.mean(weights) == pytest.approx(1, abs=0.03)
    assert np.mean(shares) == pytest.approx(0.55, abs=0.02)  # t from 0.1 to 1
    rows = rows_of(EXAMPLE, [some_masked(6, 5, np.random.default_rng(3))])
    shown = rows.ids[23:] != MASK
    assert rows.ids[23:][shown].tolist() == IDS[7:11][shown].tolist()
    assert set(rows.labels.tolist()) <= set(IDS[7:12].tolist())


def test_stages_mask_as_the_paper_does() -> None:
    first, second = (Samples([EXAMPLE], RECIPE, own) for own in (False, True))
    assert any((one.ids[23:] >= 0).any() for one in (first[i] for i in range(9)))
    sizes = set[int]()
    for number in range(30):
        rows = second[number]
        assert (rows.ids[23:] == MASK).all()
        for cut in set(rows.cuts[23:].tolist()):
            sizes.add(int((rows.cuts[23:] == cut).sum()) + 1)
        assert rows.positions.max() < len(IDS) - 1
    assert sizes == {2, 3, 4}  # blocks of one token have no row of their own
    assert not np.array_equal(second[0].cuts, second[1].cuts)
    assert np.array_equal(second[1].cuts, second[1].cuts)


@ways
def test_the_loss_is_the_weighted_cross_entropy(both: bool, source: Path) -> None:
    model = MaskedModel.load(source, both)
    rows = rows_of(EXAMPLE, [all_masked(8, 4, 1.01)])
    with torch.no_grad():
        chances = model.logits([rows]).softmax(-1)[range(4), rows.labels]
        found = float(model.loss([rows]))
    assert found == pytest.approx(float(-(chances.log() * torch.from_numpy(rows.weights)).sum()))


def test_training_learns_blocks_and_writes_them(source: Path, tmp_path: Path) -> None:
    """Both stages, the files of both, and the same rates from the written files."""
    lines: list[str] = []
    recipe = replace(RECIPE, first=replace(STAGE, passes=8), second=replace(STAGE, passes=20))
    files = train(recipe, source, texts(14), tmp_path, lines.append, StopSignal())
    assert files == tmp_path / "small"
    written = [Decoder.load(folder) for folder in (files, tmp_path / "small-first")]
    for one in written:
        mask = one.info.mask
        assert mask is not None and mask.block == BLOCK and mask.both
    before, first, second = (float(line.split(": ")[1].split()[0]) for line in lines[:3])
    assert before < 0.5 and first <= second and second > 1.5, lines
    again = MaskedModel.load(files, True)
    mask = written[0].info.mask
    assert mask is not None
    loaded = MaskedModel(again.model, True, mask.embedding)
    assert rates_of(loaded, texts(14)[:2], BLOCK).run == pytest.approx(second, abs=0.3)
    assert (files / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()
    assert (
        "gsm8k" not in (files / "README.md").read_text()
        and "MIT" in (files / "README.md").read_text()
    )


def test_an_interrupted_stage_continues(source: Path, tmp_path: Path) -> None:
    def trained(folder: Path, stops: Sequence[int]) -> torch.Tensor:
        folder.mkdir()
        model = MaskedModel.load(source, True)
        for limit in (*stops, 0):
            model = MaskedModel.load(source, True)
            stop = StopSignal()
            if limit:
                stop = _After(limit)
            try:
                fit(model, texts(6), texts(2), RECIPE, folder, stop, second=True)
            except TrainingStopped:
                continue
        return model.mask.detach()

    whole = trained(tmp_path / "whole", ())
    torch.testing.assert_close(trained(tmp_path / "parts", (3, 5)), whole, rtol=1e-5, atol=1e-6)


class _After(StopSignal):
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def asked(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._left -= 1
        return self._left <= 0

    @asked.setter
    def asked(self, value: bool) -> None:
        pass


def test_what_is_refused(source: Path, tmp_path: Path) -> None:
    for how, problem in (
        ({"block": 1}, "block is 1"),
        ({"plain": -1.0}, "plain is -1"),
        ({"prompts": ()}, "no prompts"),
    ):
        changed: dict[str, Any] = how
        with pytest.raises(OptionError, match=problem):
            replace(RECIPE, **changed)
    with pytest.raises(OptionError, match="growth is 3"):
        replace(STAGE, growth=3.0)
    other = make_checkpoint(tmp_path / "other", "qwen2")
    with pytest.raises(OptionError, match="of type qwen2"):
        MaskedModel.load(other, True)
    with pytest.raises(OptionError, match="held out"):
        train(RECIPE, source, texts(2), tmp_path / "run", lambda line: None, StopSignal())
    with pytest.raises(ValueError, match="no held-out answer"):
        rates_of(MaskedModel.load(source, True), [EXAMPLE], 30)


def test_the_recipe_that_ships_is_complete() -> None:
    recipe = read_table(Path(__file__).parents[3] / "configs" / "deer" / "tiny.toml", DeerRecipe)
    assert recipe.block == 16 and recipe.both and recipe.second.growth == 1.01
    assert not any("eval" in one.file for one in recipe.prompts)


def test_rates_of_a_perfect_and_of_a_random_model(source: Path, tmp_path: Path) -> None:
    model = MaskedModel.load(source, True)
    rates = rates_of(model, texts(3), BLOCK)
    assert rates.right.shape == (BLOCK,) and 0 <= rates.run <= rates.right.sum()
    write(tmp_path / "files", RECIPE, source, model, rates)
    assert Decoder.load(tmp_path / "files").info.mask is not None
