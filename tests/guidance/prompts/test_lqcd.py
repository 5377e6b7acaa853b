"""LQCD (arXiv 2408.11261) computes what its paper says, on distributions that are known."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, ImagePrompt, Message, Prompt, as_ids
from outrider.engine.requests import read_prompts
from outrider.guidance.prompts.leading import neutralised, with_cue
from outrider.guidance.prompts.lqcd import Lqcd
from outrider.guidance.recipe import Parts
from outrider.models.tabular import TabularModel
from outrider.protocols import Segment
from outrider.strategy.guiding import recipe_of
from outrider.testing.searches import LetterCodec
from tests.guidance.toys import ImageTable, image_prompt, image_table

pytestmark = pytest.mark.method("lqcd")
INF = float("inf")
MODEL = TabularModel.random(vocab_size=26, order=1, seed=3)
NEUTRAL, LEADING = 2, 7
TEXT = replace(Prompt(token_ids=(4, NEUTRAL)), contrast=Prompt(token_ids=(4, 1, LEADING)))


def row(prompt: Prompt, model: TabularModel = MODEL, **options: Any) -> Tensor:
    """The logits after a prompt."""
    guided = Lqcd(**options).build(Parts(target=model, models={}))
    [cache] = guided.start([prompt])
    [rows] = guided.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
    return rows.logits[0]


class TestScores:
    @pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
    def test_the_leading_question_is_subtracted_from_the_neutral_one(self, strength: float) -> None:
        neutral, leading = MODEL.logits_after((NEUTRAL,)), MODEL.logits_after((LEADING,))
        found = row(TEXT, strength=strength, alpha=0.0)
        torch.testing.assert_close(found, (1 + strength) * neutral - strength * leading)

    def test_the_mask_refers_to_the_neutral_question(self) -> None:
        found, neutral = row(TEXT, alpha=0.3), MODEL.logits_after((NEUTRAL,)).softmax(-1)
        assert torch.equal(found == -INF, neutral < 0.3 * neutral.max())
        leading = MODEL.logits_after((LEADING,)).softmax(-1)
        assert not torch.equal(found == -INF, leading < 0.3 * leading.max())

    def test_equal_questions_are_the_model_itself(self) -> None:
        same = replace(TEXT, contrast=Prompt(token_ids=(9, NEUTRAL)))
        torch.testing.assert_close(row(same, alpha=0.0), MODEL.logits_after((NEUTRAL,)))

    def test_a_prompt_can_be_the_leading_question(self) -> None:
        swapped = replace(Prompt(token_ids=(LEADING,)), contrast=Prompt(token_ids=(NEUTRAL,)))
        torch.testing.assert_close(row(swapped, given="leading"), row(TEXT))

    def test_without_another_question_nothing_is_guided(self) -> None:
        alone = Prompt(token_ids=(4, NEUTRAL))
        for given in ("neutral", "leading"):
            assert torch.equal(row(alone, given=given), MODEL.logits_after((NEUTRAL,)))


class TestImages:
    def test_both_questions_see_the_image(self) -> None:
        model = image_table(26, order=1)
        other = image_prompt(4, LEADING)
        found = row(replace(image_prompt(4, NEUTRAL), contrast=other), model, alpha=0.0)
        plain = TabularModel(model.table)
        neutral, leading = plain.logits_after((NEUTRAL,)), plain.logits_after((LEADING,))
        torch.testing.assert_close(found, 2 * neutral - leading)

    def test_both_questions_are_started_together(self) -> None:
        """So that the vision encoder can share the features of equal images."""

        class Starts(ImageTable):
            starts: list[int]

            def start(self, prompts: Sequence[Prompt], reuse: Any = None) -> Any:
                self.starts.append(len(prompts))
                return super().start(prompts, reuse)

        model = image_table()
        model.__class__ = Starts
        assert isinstance(model, Starts)
        model.starts = []
        prompt = replace(image_prompt(4, 2), contrast=image_prompt(4, 3))
        Lqcd().build(Parts(target=model, models={})).start([prompt])
        assert model.starts == [2]


class TestLeadingQuestions:
    def test_a_cue_ends_the_last_message_of_the_user(self) -> None:
        talk: list[Message] = [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Is it red?\n"},
        ]
        found = with_cue(talk, "I think so.")
        assert found == [*talk[:2], {"role": "user", "content": "Is it red? I think so.\n"}]
        assert talk[2]["content"] == "Is it red?\n"

    def test_a_cue_ends_the_last_text_beside_an_image(self) -> None:
        image = {"type": "image"}
        parts = [{"type": "text", "text": "Look:"}, image, {"type": "text", "text": "Red?"}, image]
        found = with_cue([{"role": "user", "content": parts}], "No.")
        assert found == [
            {"role": "user", "content": [*parts[:2], {"type": "text", "text": "Red? No."}, image]}
        ]

    def test_a_text_gets_it_at_its_end(self) -> None:
        assert with_cue("Is it red? ", "No.") == "Is it red? No. "
        assert Lqcd(cue="No.").contrast("Red?") == "Red? No."
        assert Lqcd(cue="").contrast("Red?") is None

    @pytest.mark.parametrize(
        "prompt", [(1, 2), [{"role": "system", "content": "Be kind."}], [{"role": "user"}]]
    )
    def test_where_there_is_no_question(self, prompt: Any) -> None:
        assert with_cue(prompt, "No.") is None and neutralised(prompt) is None

    @pytest.mark.parametrize(
        ("leading", "neutral"),
        [
            ("Is it red? I think it is.", "Is it red?"),
            ("I'm quite sure it is a cat. What is it?", "What is it?"),
            (
                "What is 2 + 2.5? But I really believe it is 5. Answer briefly.",
                "What is 2 + 2.5? Answer briefly.",
            ),
            ("It is red, isn't it?", "It is red?"),
            ("Is there a dog? It seems like there isn't.\n", "Is there a dog?\n"),
            ("A dog is there, right?\nWouldn't you say so?", "A dog is there?"),
            ("What is it? Don't you think it is a dog? In my opinion, it is.", "What is it?"),
        ],
    )
    def test_sentences_of_opinion_go(self, leading: str, neutral: str) -> None:
        assert neutralised(leading) == neutral
        chat = [{"role": "user", "content": leading}]
        found = Lqcd(given="leading").contrast(chat)
        assert found == [{"role": "user", "content": neutral}]

    @pytest.mark.parametrize(
        "question",
        [
            "Is it red?",
            "What do you think of it?",
            "Mr. Smith thinks. Who is right?",
            "I think it is red.",
            "Turn right? Or left!",
        ],
    )
    def test_neutral_questions_and_mere_opinions_stay(self, question: str) -> None:
        assert neutralised(question) is None


class Codec(LetterCodec):
    """Letters, without what is between them."""

    def encode(self, text: str) -> tuple[int, ...]:
        return super().encode("".join(one for one in text if one.isalpha()))


class TestRequests:
    def test_the_leading_question_is_read_beside_the_prompt(self) -> None:
        recipe = Lqcd(cue="c")
        [read] = read_prompts(["ab"], None, None, Codec(), 8, recipe.contrast)
        assert read.contrast is not None
        assert read.contrast.token_ids == (0, 1, 2)

    def test_with_images_both_hold_them(self) -> None:
        from PIL import Image

        image = Image.new("RGB", (4, 4))
        [read] = read_prompts(["ab"], [[image]], None, Codec(), 8, Lqcd(cue="c").contrast)
        assert read.contrast is not None
        for one in (read, read.contrast):
            assert isinstance(one.image_prompt, ImagePrompt)
            assert len(one.image_prompt.images) == 1


class TestOptions:
    def test_the_expression(self) -> None:
        assert str(recipe_of("lqcd(strength=2)")) == "lqcd(strength=2)"

    @pytest.mark.parametrize("options", [{"strength": -1}, {"alpha": 1.5}, {"given": "both"}])
    def test_what_is_out_of_range(self, options: dict[str, Any]) -> None:
        [name] = options
        with pytest.raises(OptionError, match=name):
            Lqcd(**options)
