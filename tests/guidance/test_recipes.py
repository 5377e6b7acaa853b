"""The methods compute what their papers say, on models whose probabilities are known."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from outrider.core.errors import OptionError
from outrider.core.types import NO_IDS, Prompt, as_ids
from outrider.guidance.contrastive import Contrastive
from outrider.guidance.lm_guidance import LmGuidance
from outrider.guidance.proxy_tuning import ProxyTuning
from outrider.guidance.recipe import Parts, Recipe
from outrider.guidance.two_prompt import TwoPrompt
from outrider.models.tabular import TabularModel
from outrider.protocols import LanguageModel, Segment
from outrider.strategy.guiding import Guidance, recipe_of
from outrider.testing.searches import LetterCodec

BIG, SMALL, TUNED = (TabularModel.random(vocab_size=26, order=1, seed=seed) for seed in (1, 2, 3))
TEXT = Prompt(token_ids=(4, 1, 2))
INF = float("inf")


def built(recipe: Recipe, target: TabularModel = BIG) -> LanguageModel:
    models = {role: model for role, model in recipe.models().items() if not isinstance(model, str)}
    return recipe.build(Parts(target=target, models=models, codec=LetterCodec()))  # type: ignore[arg-type]


def row(model: LanguageModel, prompt: Prompt = TEXT) -> Tensor:
    """The logits after the prompt."""
    [cache] = model.start([prompt])
    [rows] = model.forward([Segment(cache, NO_IDS)], [as_ids((-1,))])
    return rows.logits[0]


def log_probs(model: TabularModel, *text: int) -> Tensor:
    return torch.log_softmax(model.logits_after(text), dim=-1)


@pytest.mark.method("contrastive")
class TestContrastiveDecoding:
    def test_scores_are_the_log_ratio_of_expert_and_amateur_with_its_temperature(self) -> None:
        found = row(built(Contrastive(amateur=SMALL, alpha=0.0, temperature=0.5)))
        amateur = torch.log_softmax(SMALL.logits_after((2,)) / 0.5, dim=-1)
        torch.testing.assert_close(found, log_probs(BIG, 2) - amateur)

    def test_tokens_below_a_share_of_the_best_have_probability_zero(self) -> None:
        found = row(built(Contrastive(amateur=SMALL, alpha=0.3)))
        probs = log_probs(BIG, 2).exp()
        masked = probs < 0.3 * probs.max()
        assert torch.equal(found == -INF, masked)
        assert 0 < int(masked.sum()) < 25 and found[int(probs.argmax())] > -INF

    def test_an_amateur_like_the_expert_leaves_the_plausible_tokens_equal(self) -> None:
        found = row(built(Contrastive(amateur=BIG, alpha=0.3, temperature=1.0)))
        kept = found[found > -INF]
        assert len(kept) > 1 and float(kept.max() - kept.min()) < 1e-12

    def test_the_amateur_may_read_the_end_of_the_prompt_only(self) -> None:
        amateur = TabularModel.random(vocab_size=26, order=2, seed=5)
        found = row(built(Contrastive(amateur=amateur, alpha=0.0, temperature=1.0, context=1)))
        torch.testing.assert_close(found, log_probs(BIG, 2) - log_probs(amateur, 0, 2))


@pytest.mark.method("proxy-tuning")
class TestProxyTuning:
    def test_the_difference_of_tuned_and_untuned_is_added_to_the_target(self) -> None:
        found = row(built(ProxyTuning(tuned=TUNED, untuned=SMALL, alpha=0.7)))
        small, tuned = SMALL.logits_after((2,)), TUNED.logits_after((2,))
        torch.testing.assert_close(found, BIG.logits_after((2,)) + 0.7 * (tuned - small))

    def test_steering_the_untuned_model_itself_gives_the_tuned_one(self) -> None:
        found = row(built(ProxyTuning(tuned=TUNED, untuned=SMALL), SMALL))
        torch.testing.assert_close(found, TUNED.logits_after((2,)))

    @pytest.mark.parametrize("given", [{}, {"tuned": TUNED, "adapter": "x"}])
    def test_it_needs_a_tuned_model_or_an_adapter(self, given: dict[str, Any]) -> None:
        with pytest.raises(OptionError, match="needs either `tuned` or `adapter`"):
            ProxyTuning(untuned=SMALL, **given)

    def test_an_adapter_is_that_of_the_second_copy_of_the_small_model(self) -> None:
        recipe = ProxyTuning(untuned="small", adapter="lora")
        assert dict(recipe.models()) == {"tuned": "small", "untuned": "small"}
        assert dict(recipe.adapters()) == {"tuned": "lora"}


@pytest.mark.method("two-prompt")
class TestTwoPrompts:
    def test_the_other_prompt_is_subtracted(self) -> None:
        prompt = replace(TEXT, contrast=Prompt(token_ids=(9, 7)))
        found = row(built(TwoPrompt(strength=0.5, alpha=0.0)), prompt)
        expected = 1.5 * BIG.logits_after((2,)) - 0.5 * BIG.logits_after((7,))
        torch.testing.assert_close(found, expected)

    def test_equal_prompts_are_the_model_itself(self) -> None:
        """K3, up to the plausibility mask."""
        prompt = replace(TEXT, contrast=TEXT)
        found = row(built(TwoPrompt(strength=2.0, alpha=0.0)), prompt)
        torch.testing.assert_close(found, BIG.logits_after((2,)))

    def test_prompts_without_another_one_are_not_guided(self) -> None:
        assert torch.equal(row(built(TwoPrompt(strength=2.0))), BIG.logits_after((2,)))

    def test_the_other_system_message_takes_the_place_of_the_first(self) -> None:
        recipe = TwoPrompt(system="Answer badly.")
        asked = {"role": "user", "content": "Why?"}
        other = [{"role": "system", "content": "Answer badly."}, asked]
        assert recipe.contrast([{"role": "system", "content": "Be kind."}, asked]) == other
        assert recipe.contrast([asked]) == other
        assert recipe.contrast("Why?") == "Answer badly.Why?"
        assert recipe.contrast((1, 2)) is None and TwoPrompt().contrast("Why?") is None


@pytest.mark.method("lm-guidance")
class TestLanguageModelGuidance:
    def test_the_prior_is_exchanged(self) -> None:
        prompt = replace(TEXT, contrast=Prompt(token_ids=(9, 7)))
        recipe = LmGuidance(model=SMALL, alpha=1.2, beta=0.8, text="ab", newline=False)
        expected = 1.2 * log_probs(BIG, 2) - 0.8 * log_probs(BIG, 7) + log_probs(SMALL, 1)
        torch.testing.assert_close(row(built(recipe), prompt), expected)

    def test_the_probability_of_line_ends_moves_to_the_end_token(self) -> None:
        class Lines(LetterCodec):
            def decode(self, ids: Any) -> str:
                return "\n" if ids[0] in (5, 6) else super().decode(ids)

        target = TabularModel(BIG.table)
        target.info = replace(target.info, end_ids=(0,))
        recipe = LmGuidance(model=SMALL, beta=0.0, text="b")
        model = recipe.build(Parts(target=target, models={"outside": SMALL}, codec=Lines()))
        found, outside = row(model) - log_probs(BIG, 2), log_probs(SMALL, 1).exp()
        assert found[5] == found[6] == -INF
        torch.testing.assert_close(found[0].exp(), outside[0] + outside[5] + outside[6])
        torch.testing.assert_close(found[7].exp(), outside[7])

    def test_the_prompt_must_keep_a_weight(self) -> None:
        with pytest.raises(OptionError, match=r"beta is 1 and alpha is 1"):
            LmGuidance(model=SMALL, alpha=1.0, beta=1.0)


class TestNames:
    def test_expressions_numbers_and_objects(self) -> None:
        named = recipe_of("contrastive(amateur=./small,alpha=0.2)")
        assert named == Contrastive(amateur="./small", alpha=0.2)
        assert named == Guidance.contrastive(amateur="./small", alpha=0.2)
        assert str(named) == "contrastive(amateur=./small,alpha=0.2)"
        assert recipe_of(1.0) is None and recipe_of("1") is None and recipe_of(named) is named
        assert recipe_of("1.5") == recipe_of(1.5)
        assert recipe_of("classifier-free(scale=1)") is None
        assert recipe_of(Guidance.classifier_free(scale=1)) is None
        assert "proxy_tuning" in dir(Guidance)

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ("contrastiv", "unknown guidance 'contrastiv'"),
            ("contrastive", "option amateur of 'contrastive' is not given"),
            ("contrastive(amateur=x,alpha=2)", "alpha is 2"),
            ("contrastive(two-prompt)", "holds another method"),
            ("-1", "guidance is -1"),
        ],
    )
    def test_one_line_says_what_is_wrong(self, given: str, problem: str) -> None:
        with pytest.raises(OptionError, match=problem) as caught:
            recipe_of(given)
        assert caught.value.hint

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            (Guidance.two_prompt(system=3), "option system of 'two-prompt' is 3"),
            (Guidance.dola(layers=3), "option layers of 'dola' is 3"),
            (Guidance.foreal(weak="x", seed=1.5), r"option seed of 'foreal' is 1\.5"),
            (Guidance.contrastive(amateur=None), "option amateur of 'contrastive' is none"),
        ],
    )
    def test_values_of_other_types_are_refused_where_a_model_is_loaded(
        self, given: Any, problem: str
    ) -> None:
        with pytest.raises(OptionError, match=problem) as caught:
            recipe_of(given)
        assert caught.value.hint
        assert recipe_of(Guidance.dola(layers=[1, 2])) is not None
        assert recipe_of(Guidance.contrastive(amateur=BIG)) is not None

    def test_no_such_method_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="contrastiv"):
            _ = Guidance.contrastiv
