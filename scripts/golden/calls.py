"""One call of the command line, as data that can be compared."""

import io
import json
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from inspect import signature
from pathlib import Path
from typing import Any

import outrider
from outrider.cli.app import main as command_line

Case = Callable[[], Any]


WORK = Path("/tmp/outrider-golden")


ROOT = Path(outrider.__file__).parents[2]


NOT_COMPARED = {"command", "commit", "environment", "seconds", "ttft_seconds", "tokens_per_second"}


ADAPTIVE = {"speculation", "token_sources"}


STORY = "".join(
    f"{who} went to {where}. There {who} saw {n} birds and said: 'I shall call them {name}.' "
    for n, (who, where, name) in enumerate(
        [
            ("Ann", "the wood", "Pip"),
            ("Ben", "the river", "Rose"),
            ("Cora", "the old mill", "Max"),
            ("Dan", "a far hill", "Lily"),
        ]
        * 8
    )
)


PROMPT = "Once upon a time there was a little girl. Once upon a time"


CHAINS = {"lookup", "copyspec", "sam", "iad", "swift", "del", "skip", "model", "pyramid"}


RENAMED = {"--context": "--documents", "--context-on": "--selection-on", "--tree": "--growth"}
"""Options that have another name since cases were first recorded."""

IS_OLD = "tree" in signature(outrider.load).parameters
"""Whether this version has the old names."""


def call(*words: object, stdin: str = "", exact: bool = False) -> dict[str, Any]:
    """One call of the command line in this process: exit code and both outputs.

    With `exact` the numbers in lines of text count too.
    """
    out, err = io.StringIO(), io.StringIO()
    before, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = command_line([_renamed(str(word)) for word in words])
    finally:
        sys.stdin = before
    outputs = {"out": out.getvalue(), "err": err.getvalue()}
    return {"code": code} | {name: lines_of(text, exact) for name, text in outputs.items()}


def _renamed(word: str) -> str:
    return word if IS_OLD else RENAMED.get(word, word)


def lines_of(text: str, exact: bool = False) -> list[Any]:
    """Lines: JSON as data, other lines as they are; without their numbers, unless `exact`."""
    text = text.replace(str(ROOT), "<root>")
    try:
        return [stripped(json.loads(text))]
    except ValueError:
        pass
    return [_line(line, exact) for line in text.splitlines()]


def _line(line: str, exact: bool) -> Any:
    try:
        return stripped(json.loads(line))
    except ValueError:
        pass
    if exact:
        return re.sub(r"[─ ]+", " ", line)  # tables are as wide as the folder's name
    masked = re.sub(r"[-+]?\d[\d.,:]*%?", "#", line)
    return re.sub(r"(# ?)+", "#", re.sub(r"[─━│ ]+", " ", masked)).strip()


def stripped(value: Any) -> Any:
    """JSON data without what depends on the machine, the commit, or measured times."""
    if isinstance(value, dict):
        return {name: stripped(v) for name, v in value.items() if name not in NOT_COMPARED}
    return [stripped(v) for v in value] if isinstance(value, list) else value


def written(found: Any) -> Any:
    """What does not depend on measured times where these decide how much is drafted."""
    if isinstance(found, dict):
        return {name: written(v) for name, v in found.items() if name not in ADAPTIVE}
    return [written(v) for v in found] if isinstance(found, list) else found


def plain(result: Any) -> dict[str, Any]:
    """A result of `Generator.generate` as JSON data."""
    return json.loads(json.dumps(result.to_dict(), default=str))
