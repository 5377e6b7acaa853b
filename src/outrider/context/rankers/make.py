"""Builds the ranker that a `ContextConfig` names."""

from importlib import import_module

from outrider.context.catalogue import SELECTORS
from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.ranking import Ranker, SelectorMethod
from outrider.core.naming import name_of


def selector_record(name: str) -> SelectorMethod:
    """Return the record of a selector."""
    [module] = [module for module in SELECTORS if name_of(module) == name]
    return import_module(f"outrider.{module}").METHOD


def make_ranker(config: ContextConfig, embed: Embed | None = None) -> Ranker:
    """Build the ranker of `config.selector`, with the encoder of `config.encoder`.

    Nothing is loaded yet. Several models can share one ranker: it caches its index of an input.

    Args:
        config: names the selector and the encoder.
        embed: the input embeddings of a model, for the encoder `embeddings`.

    Raises:
        MissingExtraError: a package that this ranker needs is not installed.
        OptionError: the encoder does not exist, or it needs `embed`.
    """
    return selector_record(config.selector).rank(config, embed)
