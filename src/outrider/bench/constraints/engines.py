"""The engines that are compared, each for one vocabulary."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outrider.constraints.grammars import xgrammar_engine
from outrider.constraints.limits import GrammarLimits
from outrider.core.errors import OptionError
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Grammar

ENGINES = ("llguidance", "xgrammar")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What an engine has to know of a tokenizer.

    Attributes:
        tokenizer: the text of tokenizer.json.
        ends: end tokens.
        size: number of tokens.
    """

    tokenizer: str
    ends: tuple[int, ...]
    size: int


Compile = Callable[[Constraint], Grammar]


def compiler(engine: str, vocabulary: Vocabulary) -> Compile:
    """Return the function that compiles grammars with an engine.

    Raises:
        OptionError: the engine is not known.
        MissingExtraError: it is not installed.
    """
    ends = vocabulary.ends
    if engine == "xgrammar":
        return xgrammar_engine()(vocabulary.tokenizer, ends, vocabulary.size).compile
    if engine == "llguidance":
        from outrider.constraints.guidance_engine import compile_grammar, vocabulary_of

        words = vocabulary_of(vocabulary.tokenizer, ends, vocabulary.size)
        return lambda constraint: compile_grammar(constraint, words, ends)
    raise OptionError(f"unknown engine {engine!r:.40}", hint=f"Known: {', '.join(ENGINES)}")


def refusal(constraint: Constraint, limits: GrammarLimits) -> str | None:
    """Return why limits refuse a constraint before an engine sees it; None if they do not."""
    try:
        limits.check(constraint)
    except OptionError as error:
        return error.problem
    return None


def reason_of(message: str, names: Sequence[tuple[str, str]] = ()) -> str:
    """Return the class of an engine's message: see `REASONS`."""
    small = message.rpartition("is refused: ")[2].lower()
    return next((name for name, part in names or REASONS if part in small), "other")


REASONS = (
    ("keyword", "unimplemented keys"),
    ("oneOf", "oneof"),
    ("format", "format"),
    ("reference", "ref"),
    ("nothing fits", "unsatisfiable"),
    ("pattern", "regex"),
    ("pattern", "pattern"),
    ("too complex", "too large"),
    ("too complex", "too complex"),
    ("too complex", "fuel"),
    ("too complex", "limit"),
)
"""Classes of refusals, each with a part of the messages that belong to it, the first that fits."""
