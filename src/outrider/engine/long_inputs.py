"""Sets which tiers read a selection of long inputs, and adjusts the memory plan."""

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
"""Selection option of `load`: a configuration, its fields, or None to read everything."""

_EMBEDDINGS = "embeddings"

_ANSWER = 1024
"""Tokens reserved for an answer in the memory plan, if a budget limits the prompt."""


def context_config(given: GivenSelection, on: str, below: int) -> ContextConfig | None:
    """Parse and check the option `selection` before weights are read.

    Args:
        given: a `ContextConfig`, its fields as a mapping, or None to read everything.
        on: one of `CONTEXT_ON`.
        below: number of models below the target.

    Raises:
        OptionError: the value has another type, a name is unknown, or no model would read a
            selection.
        MissingExtraError: a package that scores chunks is not installed.
    """
    if on not in CONTEXT_ON:
        raise OptionError(f"unknown selection_on {on!r}", hint=nearest(on, CONTEXT_ON))
    if given is None:
        if on != "target":
            raise OptionError(
                f"selection_on is {on!r}, but no selection is given",
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
            "selection_on is 'drafters', but there is no draft model: everything would be read",
            hint="Give a draft model, or use selection_on 'target'",
        )
    make_ranker(config, _unread)
    return config


def shared_ranker(config: ContextConfig | None) -> Ranker | None:
    """Build one ranker for all models; return None if each model needs its own.

    The sentence encoder is loaded here, so that prompts do not wait for it and an unknown one is
    refused before weights are read. Raises the errors of `make_ranker`, and `OptionError` for an
    encoder that cannot be loaded.
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
    """Return `models`, largest first, where those that `on` names read a selection.

    They share one ranker, so that chunks are scored once. If the ranker needs the input embeddings
    of a model, each model has its own. Raises `OptionError` if a model does not support `config`.
    """
    if config is None:
        return list(models)
    whole = 1 if on == "drafters" else 0
    return list(models[:whole]) + [
        Selected(model, shared or make_ranker(config, model.embed), config)
        for model in models[whole:]
    ]


def limited(demands: Sequence[Demand], config: ContextConfig | None, on: str) -> list[Demand]:
    """Limit the memory demands, largest model first, of models that select within a budget.

    Such a model holds at most the budget and an answer.
    """
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
    """Placeholder for the embeddings of a model that is not loaded yet."""
    raise AssertionError("no text is encoded before the models are loaded")
