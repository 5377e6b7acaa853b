"""Which tiers read a selection of long inputs, and what that says about the memory plan."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from outrider.context.config import CONTEXT_ON, ContextConfig
from outrider.context.rankers.make import make_ranker
from outrider.context.rankers.ranking import Ranker
from outrider.context.rankers.sentence import SentenceEncoder
from outrider.context.selector import Selected
from outrider.core.errors import OptionError, nearest
from outrider.core.types import IntArray
from outrider.core.values import JsonValue
from outrider.models.memory import Demand
from outrider.protocols import LanguageModel

GivenSelection = ContextConfig | Mapping[str, JsonValue] | None
"""What is read of long inputs: a configuration, its fields, or None for everything."""

_EMBEDDINGS = "embeddings"

_ANSWER = 1024
"""Tokens of an answer in the memory plan, where a budget limits the prompt."""


def context_config(given: GivenSelection, on: str, below: int) -> ContextConfig | None:
    """What was given as `selection`, checked as far as one can before weights are read.

    Args:
        given: a `ContextConfig`, its fields as a mapping, or None to read everything.
        on: one of `CONTEXT_ON`.
        below: how many models there are below the target.

    Raises:
        OptionError: it is neither, a name is unknown, or nothing is left that would select.
        MissingExtraError: a package that scores chunks is not installed.
    """
    if on not in CONTEXT_ON:
        raise OptionError(f"unknown selection_on {on!r}", hint=nearest(on, CONTEXT_ON))
    if given is None:
        if on != "target":
            raise OptionError(
                f"selection_on is {on!r}, and no selection is given",
                hint="Give selection=ContextConfig(...)",
            )
        return None
    config = ContextConfig.of(**given) if isinstance(given, Mapping) else given
    if not isinstance(config, ContextConfig):
        raise OptionError(
            f"selection is {given!r:.60}",
            hint="Give a ContextConfig; context_length limits the tokens of prompt and answer",
        )
    if on == "drafters" and not below:
        raise OptionError(
            "selection_on is 'drafters', and no model drafts: everything would be read",
            hint="Give a draft model, or use selection_on 'target'",
        )
    make_ranker(config, _unread)
    return config


def shared_ranker(config: ContextConfig | None) -> Ranker | None:
    """A ranker for all models, its sentence encoder loaded, so that no prompt waits for that and
    an unknown one is refused before weights are read; None where each model needs its own.

    Raises what `make_ranker` does, and `OptionError` for an encoder that can not be loaded.
    """
    if config is None:
        return None
    ranker = make_ranker(config, _unread)
    if ranker.encoder_name == _EMBEDDINGS:
        return None
    if isinstance(ranker.encoder, SentenceEncoder):
        ranker.encoder.encode([])
    return ranker


def selecting(
    models: Sequence[LanguageModel], config: ContextConfig | None, on: str, shared: Ranker | None
) -> list[LanguageModel]:
    """`models`, largest first, of which all that `on` names read a selection.

    They share one ranker, so that chunks are scored once; where it needs the input embeddings of
    a model, each has its own. Raises `OptionError` when one can not do what `config` asks for.
    """
    if config is None:
        return list(models)
    whole = 1 if on == "drafters" else 0
    return list(models[:whole]) + [
        Selected(model, shared or make_ranker(config, model.embed), config)
        for model in models[whole:]
    ]


def limited(demands: Sequence[Demand], config: ContextConfig | None, on: str) -> list[Demand]:
    """`demands`, largest first; what selects within a budget holds no more than that and an
    answer."""
    if config is None or config.budget is None:
        return list(demands)
    most = config.budget + _ANSWER
    whole = 1 if on == "drafters" else 0
    return [
        demand
        if i < whole
        else replace(demand, context_length=min(demand.context_length or most, most))
        for i, demand in enumerate(demands)
    ]


def _unread(ids: IntArray) -> Tensor:
    """Stands for the embeddings of a model that is not loaded yet."""
    raise AssertionError("nothing is encoded before the models are loaded")
