"""Fields of generation_config.json and of `GenerationConfig`: followed, or named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from scripts.transformers_table import rows
from transformers import AutoModelForCausalLM, GenerationConfig

import outrider
from outrider.core.errors import OptionError, OutriderError, OutriderWarning
from outrider.engine.generation_config.fields import FIELDS, METADATA, effective
from tests.engine.bridge.test_compat import ONE, ours, theirs, with_config
from tests.engine.conftest import Folders

pytestmark = pytest.mark.usefixtures("unchecked")


def test_every_field_of_the_class_has_a_place() -> None:
    """A new field of `transformers` fails this test until someone decides what becomes of it."""
    own = {name for name in vars(GenerationConfig()) if name not in METADATA}
    assert own - FIELDS.keys() == set()


def test_the_guide_shows_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "guide-transformers.md"
    assert "\n".join(rows()) in page.read_text(encoding="utf-8")


def test_a_checkpoint_is_followed_or_named(folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders.target, tmp_path / "own")
    given = {
        "no_repeat_ngram_size": 1,
        "bad_words_ids": [[97, 98], [99]],
        "begin_suppress_tokens": [100, 101],
        "max_length": 12,
        "num_beams": 4,
        "penalty_alpha": 0.6,
        "eos_token_id": 256,
    }
    (folder / "generation_config.json").write_text(json.dumps(given))
    with pytest.warns(OutriderWarning, match=r"sets num_beams=4, penalty_alpha=0\.6, which"):
        gen = outrider.load(folder, dtype="float64", mode="none")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).double()
    model.generation_config = GenerationConfig(
        **{
            name: value
            for name, value in given.items()
            if name not in ("num_beams", "penalty_alpha")
        }
    )
    ids = torch.tensor([list(b"abc")])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids)).tolist()[0][3:]
    result = gen.generate("abc")
    assert [t for t in result.token_ids if t != 256] == [t for t in expected if t != 256]
    assert len(result.token_ids) <= 9


def test_inherited_values_yield_to_given_ones(folders: Folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders.target, tmp_path / "own")

    def load(**config: Any) -> Any:
        (folder / "generation_config.json").write_text(json.dumps(config))
        return outrider.load(folder, dtype="float64", mode="none")

    gen = load(min_new_tokens=20)
    assert len(gen.generate("abc", max_new_tokens=4).token_ids) == 4
    assert len(load(max_new_tokens=4).generate("abc", min_new_tokens=8).token_ids) >= 8
    assert len(load(min_new_tokens=200).generate("abc").token_ids) >= 200
    assert len(load(min_length=9, max_length=6).generate("abc").token_ids) <= 6
    assert len(load(max_length=9).generate("abc", max_new_tokens=30).token_ids) == 30
    with pytest.raises(OptionError, match="min_new_tokens is 9, above max_new_tokens 4"):
        gen.generate("abc", min_new_tokens=9, max_new_tokens=4)


def test_a_model_whose_configuration_was_changed() -> None:
    model = with_config("llama", no_repeat_ngram_size=1, max_new_tokens=9)
    assert ours(model, ONE) == theirs(model, ONE)
    model.generation_config.num_beams = 4
    with pytest.warns(OutriderWarning, match="num_beams=4, which Outrider does not follow"):
        ours(model, ONE)


@pytest.mark.parametrize(
    "config",
    [
        {"forced_eos_token_id": 99_999},
        {"bad_words_ids": [[97, 99_999]]},
        {"sequence_bias": [[[99_999], 400]]},
        {"exponential_decay_length_penalty": [1]},
        {"max_time": 10**400},
    ],
    ids=lambda config: next(iter(config)),
)
def test_values_of_a_file_that_no_text_can_follow(
    config: dict[str, Any], folders: Folders, tmp_path: Path
) -> None:
    folder = shutil.copytree(folders.target, tmp_path / "own")
    (folder / "generation_config.json").write_text(json.dumps(config))
    with pytest.raises(OutriderError, match=next(iter(config))):
        outrider.load(folder, dtype="float64", mode="none").generate("abc", max_new_tokens=4)


def test_values_that_change_nothing_are_not_named() -> None:
    quiet = {"num_beams": 1, "do_sample": False, "transformers_version": "4.40.0", "top_p": 1.0}
    assert effective(quiet) == {}
