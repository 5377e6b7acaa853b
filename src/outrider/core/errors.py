"""All errors that Outrider raises deliberately. Each states the problem and how to fix it."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike


class OutriderError(Exception):
    """Root of all errors that a user can fix.

    `str(error)` is one line: the problem, then the hint. The command line prints that line and
    exits with code 2.
    """

    def __init__(self, problem: str, *, hint: str = "") -> None:
        self.problem = problem.rstrip(".")
        self.hint = hint
        super().__init__(f"{self.problem}. {hint}" if hint else f"{self.problem}.")


class OptionError(OutriderError):
    """An option is unknown, out of range, or does not fit the others."""


class CheckpointError(OutriderError):
    """A model folder is missing, damaged, unsafe or of an unknown architecture."""


class StoreError(OutriderError):
    """A datastore is missing, damaged, of another kind or version, or cannot be written."""


class VocabularyError(OutriderError):
    """Two tiers do not share a vocabulary."""


class ContextError(OutriderError):
    """A text does not fit into a model's context window."""


class StrategyError(OutriderError):
    """The parts of a strategy do not fit together."""


class MemoryPlanError(OutriderError):
    """The models and their caches do not fit into memory."""


class LogitsError(OutriderError):
    """A model returned logits from which no token can be chosen (NaN, or nothing allowed)."""


class GrammarError(LogitsError):
    """A grammar cannot be followed further: its engine has reached a limit at this text."""


class MissingExtraError(OutriderError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed", hint=f'Install it with: pip install "outrider[{extra}]"'
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that suggests the known name nearest to `name`, or lists all known names."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(choices)}"


def reject_unknown(kind: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `OptionError` for the first of `given` that is not `known`, and suggest the nearest
    name."""
    names = list(known)
    for name in given:
        if name not in names:
            raise OptionError(f"unknown {kind} {name!r}", hint=nearest(name, names))


def in_short(error: BaseException) -> str:
    """Return the kind of an error and the first 200 characters of its text, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def one_line(text: str) -> str:
    """Escape line breaks and control characters, for text of unknown files in messages."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@contextmanager
def writing(path: str | PathLike[str]) -> Iterator[None]:
    """Context manager: raise `OptionError` if the system refuses to write to `path`, because the
    disk is full for example."""
    try:
        yield
    except OSError as error:
        raise OptionError(
            f"{path} cannot be written: {error.strerror or error}",
            hint="Free some space, or give another place",
        ) from None


class OutriderWarning(UserWarning):
    """Something works, but probably not as the user expects. The message is one line."""
