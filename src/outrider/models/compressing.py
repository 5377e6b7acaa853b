"""Puts the caches of a loaded model under a policy."""

from collections.abc import Callable
from dataclasses import replace

from outrider.core.errors import OptionError
from outrider.models.caches.eviction.policy import UNBOUNDED, KvPolicy, Shape
from outrider.models.caches.eviction.sizes import text_bytes
from outrider.models.checkpoints.checkpoint import Checkpoint
from outrider.models.cuda.decoder import StaticDecoder
from outrider.models.llama.base import OwnModel, cache_shape
from outrider.models.llama.config import read_config
from outrider.models.llama.decoder import supports
from outrider.models.llama.text_stack import text_checkpoint
from outrider.models.memory import Demand
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


def shape_of(checkpoint: Checkpoint) -> Shape | None:
    """Return the shape of the caches of a checkpoint; None if no runner of Outrider runs it."""
    text = text_checkpoint(checkpoint) or checkpoint
    if supports(text.config) is not None:
        return None
    return cache_shape(read_config(text.config), lambda: checkpoint.fingerprint)


def kept_bytes(policy: KvPolicy, shape: Shape, token: int) -> Callable[[int], int]:
    """Return a function of a number of tokens: the bytes of a cache that has read so many.

    Args:
        policy: the policy.
        shape: the shape of the caches.
        token: bytes of keys and values of one token in all layers.
    """
    return lambda rows: text_bytes(policy, shape, rows, token // shape.planes)


def under_policy(demand: Demand, policy: KvPolicy | None, shape: Shape | None) -> Demand:
    """Return the demand of a tier whose caches are under a policy; without both, as it is."""
    if policy is None or shape is None:
        return demand
    kept = kept_bytes(policy, shape, demand.cache)

    def most(tokens: int) -> int:
        whole = 0 if policy.chunk else demand.cache * tokens  # until the end of the prompt
        return kept(tokens) + whole

    longest = UNBOUNDED if policy.moves else demand.context_length
    return replace(demand, kept=most, context_length=longest)
