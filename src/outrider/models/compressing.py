"""Puts the caches of a loaded model under a policy."""

from outrider.core.errors import OptionError
from outrider.models.caches.eviction.policy import KvPolicy
from outrider.models.cuda.decoder import StaticDecoder
from outrider.models.llama.base import OwnModel
from outrider.models.vision.image_model import VisionLanguageModel
from outrider.protocols import LanguageModel


def with_kv_policy(model: LanguageModel, policy: KvPolicy | None) -> LanguageModel:
    """Return `model` with caches under a policy; None: as it is. Weights are shared.

    Of a model that reads images, the text stack is changed.

    Raises:
        OptionError: the model is not one that Outrider runs itself, or runs on a GPU; or the policy
            does not fit it.
    """
    if policy is None:
        return model
    if isinstance(model, VisionLanguageModel):
        inner = with_kv_policy(model.inner, policy)
        return VisionLanguageModel(inner, model.vision_encoder)
    if isinstance(model, StaticDecoder):
        raise OptionError(
            f"the policy {policy} is given, and {model.info.name} runs on {model.info.device}, "
            "where caches have static shapes",
            hint="Leave it out, or give device=cpu",
        )
    if not isinstance(model, OwnModel):
        raise OptionError(
            f"the policy {policy} is given, and {model.info.name} does not run in a runner of "
            "Outrider's own, whose caches alone can drop rows",
            hint="Leave it out; `outrider info --supported` lists the architectures that can",
        )
    return model.under(policy)
