"""Context-free grammars over texts with gaps: which tokens may stand at any place of an answer."""

from typing import TYPE_CHECKING

from outrider.core.lazy import on_first_use

if TYPE_CHECKING:
    from outrider.constraints.cfg.filling import GrammarFilling, checker_of, grammar_of
    from outrider.constraints.cfg.vocabulary import Vocabulary

__all__ = ["GrammarFilling", "Vocabulary", "checker_of", "grammar_of"]

__getattr__ = on_first_use(
    __name__,
    {
        "GrammarFilling": "filling",
        "Vocabulary": "vocabulary",
        "checker_of": "filling",
        "grammar_of": "filling",
    },
)
