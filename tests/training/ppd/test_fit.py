"""Training of prompt tokens (parallel prompt decoding, arXiv 2405.18628)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from outrider.core.errors import OptionError
from outrider.core.types import Prompt, as_ids
from outrider.drafters.heads.prompt_tokens import PromptTokens
from outrider.models.llama.decoder import Decoder
from outrider.protocols import Segment
from outrider.training.heads.prompts import PromptFile
from outrider.training.heads.recording import Example
from outrider.training.ppd.config import PpdRecipe
from outrider.training.ppd.fit import FitSettings, fit, fresh_table, loss_of, rank_rates
from outrider.training.ppd.guesses import Guesser
from outrider.training.ppd.train import trained, write
from tests.models.setups.make_checkpoints import make_checkpoint

pytestmark = [pytest.mark.method("ppd"), pytest.mark.usefixtures("unchecked")]

IDS = np.array([(7 * i * i + 3) % 280 for i in range(40)])


@pytest.fixture(scope="module")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Guesser:
    folder = tmp_path_factory.mktemp("ppd-training")
    windows = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return Guesser(Decoder.load(make_checkpoint(folder / "small", "gemma3", **windows)))


@pytest.mark.parametrize("copies", [1, 2])
def test_training_sees_what_decoding_sees(guesser: Guesser, copies: int) -> None:
    table = torch.randn(3, copies, 32, generator=torch.Generator().manual_seed(1))
    tokens = PromptTokens(table=table, rates=torch.zeros(3, 2), vocab_size=288)
    text, places = guesser.read(IDS, 5), np.array([5, 11, 39])
    found = guesser.logits(table, text, places)
    for place, own in zip(places, found, strict=True):
        [cache] = guesser.target.start([Prompt(token_ids=tuple(IDS[: place + 1].tolist()))])
        ids = [tokens.row_id(k, j) for k in range(3) for j in range(copies)]
        parents = [(k - 1) * copies + j if k else -1 for k in range(3) for j in range(copies)]
        segment = Segment(cache, as_ids(ids), as_ids(parents), tokens.rows)
        [rows] = guesser.target.forward([segment], [as_ids(range(len(ids)))])
        true = rows.logits.view(3, copies, -1).mean(1)
        torch.testing.assert_close(own, true, rtol=1e-4, atol=1e-4)


def test_the_labels_are_the_targets_distributions_some_tokens_ahead(guesser: Guesser) -> None:
    table, places = fresh_table(guesser, 2, 1, seed=0), np.array([6, 20])
    text = guesser.read(IDS, 5)
    [cache] = guesser.target.start([Prompt(token_ids=tuple(IDS[:1].tolist()))])
    want = as_ids(range(-1, len(IDS) - 1))
    [rows] = guesser.target.forward([Segment(cache, as_ids(IDS[1:]))], [want])
    expected = 0.0
    for place in places:
        for prompt, weight in ((0, 1.0), (1, 0.8)):
            label = rows.logits[place + 1 + prompt].softmax(-1)
            guess = guesser.logits(table, text, np.array([place]))[0, prompt].log_softmax(-1)
            expected += weight * float((label * (label.log() - guess)).sum()) / 4
    assert loss_of(table, guesser, text, places).item() == pytest.approx(expected, rel=1e-4)


def test_only_embeddings_are_trained_and_the_loss_falls(guesser: Guesser) -> None:
    settings = FitSettings(
        prompts=2,
        copies=1,
        places=16,
        texts=1,
        passes=40,
        learning_rate=0.1,
        max_minutes=None,
        seed=0,
    )
    before = guesser.target.weights.embed.clone()
    example = Example(IDS, 5)
    table = fit(guesser, [example], settings, print)
    assert torch.equal(guesser.target.weights.embed, before)
    assert not guesser.target.weights.embed.requires_grad and table.shape == (2, 1, 32)
    text, places = guesser.read(IDS, 5), example.places(2)
    first = loss_of(fresh_table(guesser, 2, 1, 0), guesser, text, places)
    assert loss_of(table, guesser, text, places) < 0.9 * first
    rates = rank_rates(guesser, table, [example], ranks=288)
    assert rates.sum(dim=1).tolist() == pytest.approx([1.0, 1.0])  # every token has a rank


def test_places_leave_room_for_the_labels() -> None:
    assert Example(IDS[:10], 3).places(3).tolist() == [3, 4, 5]
    assert len(Example(IDS[:6], 3).places(3)) == 0


def test_a_recipe_and_its_files(guesser: Guesser, tmp_path: Path) -> None:
    file = PromptFile(name="a", file="a.jsonl", form="question", share=1.0, licence="MIT")
    recipe = PpdRecipe(
        name="small", target="small", prompts=(file,), places=4, texts=1, held_out=1, ranks=3
    )
    examples = [Example(IDS, 5), Example(IDS[3:], 2)]
    tokens = trained(recipe, guesser, examples, print)
    write(tmp_path, recipe, tokens, {8: 1.25})
    found = PromptTokens.read(tmp_path)
    assert torch.equal(found.table, tokens.table) and found.vocab_size == 288
    assert "| 8 | 1.250 |" in (tmp_path / "README.md").read_text()
    with pytest.raises(OptionError, match="held out"):
        trained(recipe, guesser, examples[:1], print)
    with pytest.raises(OptionError, match="prompt_tokens is 0"):
        PpdRecipe(name="a", target="a", prompts=(file,), prompt_tokens=0)
    with pytest.raises(OptionError, match="no prompts"):
        PpdRecipe(name="a", target="a", prompts=())
