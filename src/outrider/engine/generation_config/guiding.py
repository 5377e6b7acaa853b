"""Guidance as `generate` of `transformers` has it: `guidance_scale` and `negative_prompt_ids`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from outrider.core.checks import shown
from outrider.core.errors import OptionError
from outrider.core.values import JsonValue
from outrider.engine.bridge_inputs import Batch, read_batch
from outrider.engine.options import is_family
from outrider.guidance.classifier_free import ClassifierFree, guided
from outrider.guidance.recipe import Parts
from outrider.models.checkpoints.opening import open_checkpoint
from outrider.models.loading import ModelSource
from outrider.models.sources.families import family
from outrider.models.sources.finding import local_folder
from outrider.protocols import LanguageModel

SCALE = "guidance_scale"
NEGATIVE, NEGATIVE_MASK = "negative_prompt_ids", "negative_prompt_attention_mask"


@dataclass(frozen=True, slots=True, kw_only=True)
class OfLogProbs(ClassifierFree):
    """Mixes log-probabilities, as `transformers` does.

    The distribution is that of the mixed logits, but a repetition penalty depends on the sign of
    the scores that it changes.
    """

    def build(self, parts: Parts) -> LanguageModel:
        """Return the guided target."""
        return guided(parts.target, self.scale, space="logprob")


def chosen_guidance(
    model: ModelSource, given: Mapping[str, JsonValue], loading: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    """Return the option `guidance` of `load` that `guidance_scale` stands for; empty if none.

    Args:
        model: the model, whose own configuration may set a scale.
        given: the fields of `GenerationConfig` that the call sets.
        loading: the options of `load` that the call gives.

    Raises:
        OptionError: the scale is not a number of at least 0, or `guidance` is given as well.
    """
    if "guidance" in loading:
        if given.get(SCALE) is not None:
            raise OptionError(f"{SCALE} and guidance are both given", hint="Give one of them")
        return {}
    scale = given[SCALE] if SCALE in given else _own_scale(model)
    if scale is None or scale == 1:
        return {}
    try:
        return {"guidance": OfLogProbs(scale=scale)}
    except OptionError as error:
        raise OptionError(f"{SCALE} is {shown(scale)}", hint=error.hint) from None


def other_prompts(
    options: dict[str, JsonValue], batch: Batch, target: LanguageModel
) -> list[list[int]] | None:
    """Take the negative prompts out of the options: one for each prompt; None if there are none.

    Raises:
        OptionError: they are not token ids, not one for each prompt, or given without guidance.
    """
    ids, mask = options.pop(NEGATIVE, None), options.pop(NEGATIVE_MASK, None)
    if ids is None:
        if mask is not None:
            raise OptionError(f"{NEGATIVE_MASK} is given without {NEGATIVE}", hint="Leave it out")
        return None
    if target.info.guidance is None:
        raise OptionError(
            f"{NEGATIVE} is given, and the model is not guided",
            hint=f"Give {SCALE}=1.5 as well, or leave it out",
        )
    found = read_batch(ids, mask, None, ()).prompts
    if len(found) != len(batch.prompts):
        raise OptionError(
            f"{NEGATIVE} has rows: {len(found)}, and the prompts are {len(batch.prompts)}",
            hint="Give one negative prompt for each prompt",
        )
    return found


def _own_scale(model: ModelSource) -> JsonValue:
    """Return the scale that the configuration of a model sets."""
    if isinstance(model, str | Path):
        folder = family(model)["target"] if is_family(model) else local_folder(model)
        return open_checkpoint(folder).generation.get(SCALE)
    if isinstance(model, LanguageModel):
        return model.info.generation_defaults.get(SCALE)
    return getattr(getattr(model, "generation_config", None), SCALE, None)
