"""`--coprocessor FOLDER`: latents behind each prompt, drafted or not (arXiv 2412.17747)."""

from pathlib import Path

import pytest
import torch

import outrider
from outrider.core.errors import CheckpointError, OptionError
from outrider.models.latents.augmented import AugmentedModel
from outrider.models.latents.coprocessor import FORMAT, KIND
from outrider.models.llama.decoder import Decoder
from outrider.training.core.lora import LayerUpdates, write_adapter
from outrider.training.core.state import save_tensors, write_json
from tests.cli.conftest import Family, Run

pytestmark = pytest.mark.method("augmented")


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random coprocessor of three latents."""
    place, target = tmp_path_factory.mktemp("coprocessor"), Decoder.load(family.target)
    updates = LayerUpdates(target.weights.layers, 2, 4.0, 0)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in updates.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    write_adapter(place, dict(updates.named(target.config)), "a", 2, 4.0)
    weights = {"soft": torch.randn(3, target.width), "scale": torch.ones(1)}
    save_tensors(place / f"{KIND}.safetensors", weights)
    facts = {"format": FORMAT, "fingerprint": target.info.fingerprint}
    write_json(place / f"{KIND}.json", facts)
    return place


def test_drafted_text_equals_undrafted_text(folder: Path, family: Family, run: Run) -> None:
    words = ("abcabcabc", "--raw", "--max-new-tokens", "16", "--json", "--coprocessor", folder)
    alone = run("generate", *words, *family.alone).json
    plain = run("generate", *words[:-2], *family.alone).json
    assert alone["token_ids"] != plain["token_ids"]
    assert alone["speculation"]["exactness"] == "lossy"
    assert plain["speculation"]["exactness"] == "identical"
    for options in (family.two, family.three, ["--target", family.target, "--drafter", "lookup"]):
        told = run("generate", *words, *options, "--guard", "off").json
        assert told["token_ids"] == alone["token_ids"]
        assert told["speculation"]["exactness"] == "lossy"


def test_texts_of_several_turns(folder: Path, family: Family) -> None:
    """A chat continues its cache; each turn equals one that is read from the beginning."""
    generator = outrider.load(family.target, coprocessor=folder, drafter="none", threads=1)
    assert isinstance(generator.strategy.target, AugmentedModel)
    messages = [{"role": "user", "content": "ab"}]
    for _ in range(3):
        found = generator.generate(messages, max_new_tokens=6)
        generator.reset()
        assert generator.generate(messages, max_new_tokens=6).token_ids == found.token_ids
        messages += [{"role": "assistant", "content": found.text}]
        messages += [{"role": "user", "content": "cd"}]


def test_what_is_refused(folder: Path, family: Family, run: Run, tmp_path: Path) -> None:
    for words, problem in (
        (("--coprocessor", "nowhere"), "nowhere"),
        (("--coprocessor", folder, "--guidance", "1.5"), "a coprocessor is trained for the plain"),
        (("--coprocessor", folder, "--layer-skipping", "1.5"), "trained for the plain target"),
    ):
        outcome = run("generate", "abc", "--raw", "--target", family.target, *words)
        assert outcome.code == 2 and problem in outcome.error
    with pytest.raises(CheckpointError, match="another model"):
        outrider.load(family.draft, coprocessor=folder)
    with pytest.raises(OptionError, match="without an adapter"):
        outrider.load(family.target, coprocessor=folder, adapter=folder)
    with pytest.raises(OptionError, match="already built"):
        outrider.load(Decoder.load(family.target), coprocessor=folder)
    outcome = run("train", "coprocessor", tmp_path / "none.toml")
    assert outcome.code == 2 and "none.toml" in outcome.error
