"""Conformance tests of method records: the description is complete and correct."""

import re

from outrider.core.errors import OptionError
from outrider.core.types import Exactness
from outrider.protocols import AcceptanceRule
from outrider.protocols.method import Method
from outrider.testing.errors import require

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
_LONGEST = 160


def check_method(method: Method[object]) -> None:
    """Check the record of a method.

    The name is valid on the command line, the summary is one line, the paper has a valid
    identifier. Defaults belong to existing options and have the right types. An unknown option
    gives an error of one line. A rule that is built by name has the exactness that the record
    states.

    Args:
        method: the record.

    Raises:
        ConformanceError: the first violated point, in one line.
    """
    name = method.name
    require(bool(_NAME.fullmatch(name)), f"the name {name!r} is not lower-case words with '-'")
    summary = method.summary
    require(
        0 < len(summary) <= _LONGEST and "\n" not in summary and not summary.endswith("."),
        f"{name}: the summary is no single line of up to {_LONGEST} characters without a full stop",
    )
    if method.paper is not None:
        require(bool(method.paper.title), f"{name}: the paper has no title")
        arxiv = method.paper.arxiv
        require(
            not arxiv or bool(_ARXIV.fullmatch(arxiv)), f"{name}: {arxiv!r} is no arXiv identifier"
        )
    _check_options(method)
    if hasattr(method.cls, "tracks_probs"):
        require(
            _exactness(method) == method.promise,
            f"{name} promises {method.promise}, and the rule built by name does not",
        )
    else:
        require(
            method.promise in (Exactness.IDENTICAL, Exactness.LOSSY) or method.writes_values,
            f"{name}: only a rule, or a method of values, promises a distribution",
        )


def _exactness(method: Method[object]) -> object:
    """Return the exactness of a rule built by name; of its class, if an option must be given."""
    if any(option.required for option in method.options.values()):
        return vars(method.cls).get("exactness")
    built = method.build({})
    return built.exactness if isinstance(built, AcceptanceRule) else None


def _check_options(method: Method[object]) -> None:
    options = method.options
    strange = set(method.defaults) - set(options)
    require(not strange, f"{method.name}: the default {sorted(strange)[:1]} is no option")
    for option in options.values():
        if option.required:
            continue
        try:
            option.read(method.name, option.default)
        except OptionError as error:
            require(False, f"{method.name}: the default is refused: {error}")
    try:
        method.settings({"no_such_option": 1})
    except OptionError as error:
        require("\n" not in str(error), f"{method.name}: an error has several lines")
    else:
        require(False, f"{method.name}: an unknown option is accepted")
