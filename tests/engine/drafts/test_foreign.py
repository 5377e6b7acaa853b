"""`load` with a draft model of another tokenizer: drafts are translated, or the options refused."""

from pathlib import Path
from typing import Any

import pytest

from outrider.core.errors import OptionError, VocabularyError
from outrider.drafters import Fallback, Universal
from outrider.engine.load import load
from tests.engine.conftest import NOT_LETTERS, Folders
from tests.models.setups.foreign import foreign_checkpoint

pytestmark = pytest.mark.method("universal")
CHAT = [{"role": "user", "content": "abc"}]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft model with a vocabulary of its own: bytes in another order, and two words."""
    return foreign_checkpoint(tmp_path_factory.mktemp("other") / "draft")


def test_the_text_is_that_of_the_target(folders: Folders, other: Path) -> None:
    """For prompts of all forms, in a batch, with a stop string, and in the next turn."""
    plain = load(folders.target, drafter="none", draft="none")
    options: dict[str, Any] = {"max_new_tokens": 24, "seed": 3}
    alone = [plain.generate(p, **options) for p in ("abc", CHAT, "Straße 🙂")]
    for more in ({}, {"num_speculative_tokens": 3}, {"drafter": "universal"}):
        drafted = load(folders.target, draft=other, **more)
        assert drafted.strategy.exactness == plain.strategy.exactness
        for one in (0.0, 0.8):
            wanted = plain.generate(["abc", "Straße 🙂"], temperature=one, **options)
            found = drafted.generate(["abc", "Straße 🙂"], temperature=one, **options)
            assert [r.token_ids for r in found] == [r.token_ids for r in wanted]
        assert drafted.generate(CHAT, **options).token_ids == alone[1].token_ids
        stop = alone[0].text[9:11]
        stopped = drafted.generate("abc", stop=[stop], **options)
        assert stopped.text == plain.generate("abc", stop=[stop], **options).text
    fixed = load(folders.target, draft=other, num_speculative_tokens=3)
    counted = fixed.generate("abc", banned_tokens=NOT_LETTERS, **options).speculation
    assert counted.target.drafted > 5 and counted.stages["universal"].forwards > 20


def test_the_choice_is_told(folders: Folders, other: Path) -> None:
    chosen = load(folders.target, draft=other).strategy
    assert isinstance(chosen.drafter, Fallback) and isinstance(chosen.drafter.second, Universal)
    assert "universal" in chosen.describe()
    assert "models   draft with its own tokenizer" in chosen.describe()
    fixed = load(folders.target, draft=other, num_speculative_tokens=3).strategy
    assert isinstance(fixed.drafter, Universal) and fixed.windows == (3,)
    asked = load(folders.target, draft=other, drafter="universal(lookbehind=4)").strategy
    assert "drafter  universal(lookbehind=4)" in asked.describe()


def test_one_vocabulary_may_be_translated_on_request(folders: Folders) -> None:
    """So that the cost of the translation can be measured."""
    same = load(folders.target, draft=folders.draft, drafter="universal").strategy
    assert isinstance(same.drafter, Universal)
    assert not isinstance(load(folders.target, draft=folders.draft).strategy.drafter, Universal)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"mode": "distribution"}, "mode 'distribution' compares"),
        ({"mode": "fuzzy"}, "mode 'fuzzy' compares"),
        ({"mode": "assisted"}, "mode 'assisted' compares"),
        ({"rule": "rejection", "drafter": "model"}, "rule 'rejection' judges"),
        ({"drafter": "model"}, "drafter 'model' drafts ids"),
        ({"drafter": "tree"}, "drafter 'tree' drafts ids"),
        ({"drafter": "switch(sam,model)"}, "drafter 'model' drafts ids"),
    ],
)
def test_options_that_need_one_vocabulary(
    folders: Folders, other: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(VocabularyError, match=f"does not share.*{reason}"):
        load(folders.target, draft=other, **options)


def test_qualifiers_share_the_vocabulary(folders: Folders, other: Path) -> None:
    with pytest.raises(VocabularyError, match="the qualifier model does not share"):
        load(folders.target, qualifier=other, draft=folders.draft)
    both = load(folders.target, qualifier=folders.qualifier, draft=other)
    plain = load(folders.target, drafter="none", draft="none")
    options: dict[str, Any] = {"max_new_tokens": 12, "seed": 1}
    assert both.generate("abc", **options).text == plain.generate("abc", **options).text


def test_what_a_foreign_draft_model_cannot_do(folders: Folders, other: Path) -> None:
    with pytest.raises(OptionError, match="learn is given, and the draft model has a vocab"):
        load(folders.target, draft=other, learn="osd")
    with pytest.raises(OptionError, match="draft_vocabulary is given"):
        load(folders.target, draft=other, draft_vocabulary=64)
