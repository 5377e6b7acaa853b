"""Scorers by name, for the command line and the server."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outrider.core.errors import OptionError, in_short
from outrider.search.scorers.programs import ProgramScorer
from outrider.search.scorers.rules import Keywords, Length
from outrider.search.scorers.scorer import FunctionScorer, Scorer

FORMS = (
    "keywords:WORD,WORD",
    "length:WORDS",
    "classifier:FOLDER[#LABEL]",
    "tests:FILE",
    "FILE.py:FUNCTION",
)
"""What `make_scorer` reads."""


def make_scorer(text: str, *, allow_code_execution: bool = False) -> Scorer:
    """Make the scorer of a name.

    Args:
        text: `keywords:sea,wind`, `length:40`, `classifier:FOLDER`, `classifier:FOLDER#LABEL` or
            `FILE.py:FUNCTION`, a function of a text that returns a number; `tests:FILE`, whose
            lines are statements that a program in the text must pass.
        allow_code_execution: whether programs that the model writes may be run, in a sandbox.

    Raises:
        OptionError: the name is of no known form, or its value is invalid.
        CheckpointError: the classifier cannot be loaded.
    """
    kind, found, value = text.partition(":")
    if found and kind == "keywords":
        return Keywords(tuple(word.strip() for word in value.split(",")))
    if found and kind == "length":
        if not value.strip().isdecimal():
            raise OptionError(f"the scorer is {text!r:.60}", hint="Write length:40")
        return Length(int(value))
    if found and kind == "classifier":
        from outrider.search.scorers.classifier import Classifier

        folder, _, label = value.partition("#")
        return Classifier.load(folder, label or None)
    if found and kind == "tests":
        return ProgramScorer(
            _tests(Path(value).expanduser()), allow_code_execution=allow_code_execution
        )
    file, found, function = text.rpartition(":")
    if found and file.endswith(".py"):
        return FunctionScorer(_function(Path(file).expanduser(), function), title=text)
    raise OptionError(f"the scorer is {text!r:.60}", hint=f"Give {', '.join(FORMS)}")


def _tests(file: Path) -> tuple[str, ...]:
    """Return the statements of a file: its lines that are not empty."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise OptionError(
            f"the tests {file} cannot be read: {in_short(error)}",
            hint="Give a text file with a statement on each line: assert add(1, 2) == 3",
        ) from None
    return tuple(line for line in lines if line.strip())


def _function(file: Path, name: str) -> Callable[[str], float]:
    """Return a function of a file of the user, whose code is run."""
    if not file.is_file():
        raise OptionError(f"there is no file {file}", hint="Check the path of the scorer")
    spec = importlib.util.spec_from_file_location(f"outrider_scorer_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file raises
        raise OptionError(
            f"{file} cannot be run: {in_short(error)}", hint="Correct the file of the scorer"
        ) from error
    found: Any = vars(module).get(name)
    if not callable(found):
        raise OptionError(f"{file} has no function {name!r:.60}", hint="Check the name after ':'")
    made: Callable[..., Any] = found
    return made
