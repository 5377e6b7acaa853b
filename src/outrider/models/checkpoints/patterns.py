"""Runs regular expressions from files in a child process, which is ended after a time limit.

Regular expressions may backtrack for longer than anybody waits, and no thread can end that.
Expressions that cannot do so run at once.
"""

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from outrider.core.errors import CheckpointError
from outrider.core.values import JsonValue
from outrider.models.checkpoints.limits import CheckpointLimits, raise_limit

_PLAIN = re.compile(r"\^?[\w.\\-]*\$?")
"""Expressions without choices and repetitions, such as `layers.1.self_attn.q_proj`."""

_LONGEST = 20_000
"""Characters of an expression."""

_MATCH = """
import json, re, sys
print("ready", flush=True)
for one in json.load(sys.stdin):
    try:
        found = [bool(re.match(one["pattern"], text)) for text in one["texts"]]
    except Exception as error:
        found = str(error)
    print(json.dumps(found), flush=True)
"""

_SPLIT = """
import json, sys
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split
print("ready", flush=True)
for one in json.load(sys.stdin):
    try:
        split = Split(Regex(one["pattern"]), "isolated")
        for text in one["texts"]:
            split.pre_tokenize_str(text)
    except Exception as error:
        pass
    print("true", flush=True)
"""

_REGEX = re.compile(rb'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")')
_REPEATED_GROUP = re.compile(r"\)(?:[*+]|\{)|\\[1-9]")
_REPEATED = re.compile(r"[*+]|\{\d+,\}")
_MOST_REPEATED = 4
"""Known expressions repeat fewer parts in a row; a count such as `{1,3}` is none."""
_PROBED = "aA1 \n'.,!?:-_é漢"
_PROBE_LENGTH = 64


def matches(
    patterns: Sequence[str], texts: Sequence[str], file: str | Path, *, around: str = "{}"
) -> list[list[bool]]:
    """Return for each expression which of the texts it matches from their start.

    Args:
        patterns: expressions from a file, in the syntax of Python.
        texts: what to match.
        file: the file in messages.
        around: an expression that encloses each of them, with `{}` in its place.

    Raises:
        CheckpointError: one is no regular expression, or they take longer than the limit.
    """
    whole = [around.replace("{}", pattern) for pattern in patterns]
    if all(_PLAIN.fullmatch(pattern) for pattern in patterns):
        found: list[JsonValue] = [_at_once(pattern, texts) for pattern in whole]
    else:
        found = _run(_MATCH, whole, [list(texts)] * len(whole), file)
        if not found:
            raise CheckpointError(
                f"no process for the regular expressions of {file} could be started",
                hint="Try again, or write plain names of modules",
            )
    for pattern, one in zip(patterns, found, strict=True):
        if isinstance(one, str):
            raise CheckpointError(
                f"{file} holds {pattern!r:.60}, which is no regular expression: {one}",
                hint="Correct the file",
            )
    return found


def _at_once(pattern: str, texts: Sequence[str]) -> list[bool] | str:
    try:
        return [bool(re.match(pattern, text)) for text in texts]
    except re.error as error:
        return str(error)


def check_patterns(data: bytes, file: str | Path) -> None:
    """Try the expressions of a tokenizer that may backtrack on texts made to cause it.

    Args:
        data: tokenizer.json.
        file: the file in messages.

    Raises:
        CheckpointError: they take longer than the limit.
    """
    found = dict.fromkeys(map(_decoded, _REGEX.findall(data)))
    risky = [pattern for pattern in found if _is_risky(pattern)]
    if risky:
        _run(_SPLIT, risky, [_probes(pattern) for pattern in risky], file)


def _decoded(literal: bytes) -> str:
    try:
        return str(json.loads(literal))
    except ValueError:  # the tokenizer's own reader refuses the file
        return ""


def _is_risky(pattern: str) -> bool:
    """Whether an expression repeats groups, repeats many parts in a row, or is very long."""
    parts = pattern.split("|")
    many = any(len(_REPEATED.findall(part)) >= _MOST_REPEATED for part in parts)
    return many or len(pattern) > _LONGEST or bool(_REPEATED_GROUP.search(pattern))


def _probes(pattern: str) -> list[str]:
    """Return texts that almost match: one character many times, then one that ends the match.

    All characters follow, because a search for an expression ends early if one that it needs is
    missing.
    """
    letters = dict.fromkeys((*_PROBED, *re.findall(r"\w", pattern)[:40]))
    tail = "\0" + "".join(letters)
    return [letter * _PROBE_LENGTH + tail for letter in letters]


def _run(
    program: str, patterns: Sequence[str], texts: Sequence[list[str]], file: str | Path
) -> list[JsonValue]:
    """Run a program on all expressions; return the value that it prints for each.

    The list is empty if no process could be started.
    """
    jobs = [{"pattern": p, "texts": t} for p, t in zip(patterns, texts, strict=True)]
    seconds = CheckpointLimits.current().pattern_seconds
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", program],
            input=json.dumps(jobs).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except OSError:
        return []
    except subprocess.TimeoutExpired as error:
        lines = (error.stdout or b"").count(b"\n")
        if not lines:
            return []
        slow = patterns[min(lines - 1, len(patterns) - 1)]
        raise CheckpointError(
            f"{file} holds a regular expression that takes more than {seconds} s: {slow!r:.60}",
            hint=raise_limit("pattern_seconds"),
        ) from None
    lines = done.stdout.splitlines()
    if not lines:
        return []
    found = [json.loads(line) for line in lines[1:]]
    if len(found) < len(patterns):
        raise CheckpointError(
            f"{file} holds a regular expression that backtracks too often: "
            f"{patterns[len(found)]!r:.60}",
            hint="Correct the file, or download it again",
        )
    return found
