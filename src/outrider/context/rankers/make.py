"""Rankers by name: what a `ContextConfig` asks for."""

from importlib import import_module

from outrider.context.catalogue import SELECTORS
from outrider.context.config import ContextConfig
from outrider.context.rankers.embeddings import Embed
from outrider.context.rankers.ranking import Ranker, SelectorMethod
from outrider.core.naming import name_of


def selector_record(name: str) -> SelectorMethod:
    """The record of a selector."""
    [module] = [module for module in SELECTORS if name_of(module) == name]
    return import_module(f"outrider.{module}").METHOD


def make_ranker(config: ContextConfig, embed: Embed | None = None) -> Ranker:
    """The ranker of `config.selector`, with the encoder of `config.encoder`.

    Nothing is loaded yet. One ranker may serve several models: what it learns of an input is kept
    for all of them.

    Args:
        config: names the selector and the encoder.
        embed: the input embeddings of a model, for the encoder `embeddings`.

    Raises:
        MissingExtraError: a package that this ranker needs is not installed.
        OptionError: there is no such encoder, or it can not be had without `embed`.
    """
    return selector_record(config.selector).rank(config, embed)
