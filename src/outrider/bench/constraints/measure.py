"""Measures one schema with one engine: whether it is accepted, whether its instances are judged
rightly, and how long masks take.

Times are those of the processor in this thread, so that other processes of the machine do not
count. Under a limit on the process (see `child`), the system counts the time of the process in
steps of 4 ms only.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import log2
from time import thread_time

from tokenizers import Tokenizer

from outrider.bench.constraints.cases import Case
from outrider.bench.constraints.engines import (
    Compile,
    Vocabulary,
    compiler,
    reason_of,
    refusal,
)
from outrider.bench.constraints.figures import STEPS
from outrider.constraints.limits import GrammarLimits
from outrider.constraints.validation import validator_of
from outrider.core.errors import MissingExtraError, OutriderError
from outrider.core.values import JsonValue
from outrider.sampling.constraint import Constraint
from outrider.sampling.walk import Grammar, Matcher


@dataclass(slots=True)
class _Walked:
    """What was counted along the valid instances of a schema."""

    tokens: int = 0
    single: int = 0
    forced: int = 0
    respelled: int = 0
    masks: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0

    def time(self, seconds: float) -> None:
        """Count a mask."""
        self.masks[round(STEPS * log2(max(seconds, 1e-9) * 1e6))] += 1
        self.slowest = max(self.slowest, seconds)


class Meter:
    """Measures schemas with one engine."""

    def __init__(self, engine: str, vocabulary: Vocabulary) -> None:
        """Read the vocabulary."""
        _validator("true")  # an error if it is not installed
        self.engine = engine
        self._compile: Compile = compiler(engine, vocabulary)
        self._words = Tokenizer.from_str(vocabulary.tokenizer)
        self._words.encode_special_tokens = True
        self._limits = GrammarLimits()

    def measure(self, case: Case) -> dict[str, JsonValue]:
        """Return one record; its fields are those of `figures.summary`."""
        record: dict[str, JsonValue] = {
            "engine": self.engine,
            "split": case.split,
            "id": case.id,
            "bytes": len(case.schema.encode()),
        }
        try:
            constraint = Constraint.json_schema(case.schema)
        except OutriderError as error:
            return record | {"outcome": "refused", "reason": "other", "message": error.problem}
        if message := refusal(constraint, self._limits):
            return record | {"outcome": "limit", "reason": "limit", "message": message}
        began = thread_time()
        try:
            grammar = self._compile(constraint)
        except OutriderError as error:
            reason = reason_of(error.problem)
            record |= {"outcome": "refused", "reason": reason, "message": error.problem}
            return record | {"compile_seconds": thread_time() - began}
        record |= {"outcome": "accepted", "compile_seconds": thread_time() - began}
        return record | self._judged(case, grammar)

    def _judged(self, case: Case, grammar: Grammar) -> dict[str, JsonValue]:
        walked, counts, examples = _Walked(), Counter[str](), list[JsonValue]()
        validate = _validator(case.schema)
        for text, label in case.instances:
            checked = validate(text)
            valid = checked if label is None else label
            if valid is None:
                counts["unknown"] += 1
                continue
            counts["valid" if valid else "invalid"] += 1
            try:
                admitted = self._admitted(text, grammar.begin(), walked if valid else None)
            except OutriderError as error:
                counts["failed"] += 1
                examples.append({"kind": "failed", "text": text[:300], "message": error.problem})
                continue
            if admitted == valid:
                continue
            kind = "over" if valid else "under"
            if checked is not None and checked != valid:
                kind = "disputed"  # the label contradicts the validator
            counts[kind] += 1
            examples.append({"kind": kind, "text": text[:300]})
        names = ("valid", "invalid", "unknown", "over", "under", "disputed", "failed")
        return {
            **{name: counts[name] for name in names},
            "examples": examples[:3],
            "tokens": walked.tokens,
            "single": walked.single,
            "forced": walked.forced,
            "respelled": walked.respelled,
            "masks": {str(step): count for step, count in sorted(walked.masks.items())},
            "slowest_mask_seconds": walked.slowest,
        }

    def _admitted(self, text: str, matcher: Matcher, walked: _Walked | None) -> bool:
        """Return whether a grammar admits a text, token by token.

        Where the next bytes are certain, llguidance's masks allow their usual token only. Another
        spelling of the same text is then admitted without being in the mask, and counted apart.
        """
        tokens = self._words.encode(text, add_special_tokens=False).ids
        if walked is None:
            return matcher.advance(tokens) == len(tokens) and matcher.accepting
        known = 0
        for place, token in enumerate(tokens):
            began = thread_time()
            allowed = matcher.allowed()
            walked.time(thread_time() - began)
            walked.tokens += 1
            if not allowed[token]:
                if not matcher.admits([token]):
                    return False
                walked.respelled += 1
            walked.single += bool(allowed.sum() == 1 and not matcher.accepting)
            if place >= known:
                known = place + _same(matcher.forced(), tokens[place:])
            walked.forced += place < known
            if not matcher.advance([token]):
                return False
        return matcher.accepting


def _same(given: list[int], wanted: list[int]) -> int:
    """Return how many tokens are equal from the beginning."""
    pairs = zip(given, wanted, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(given), len(wanted)))


Validate = Callable[[str], bool | None]


def _validator(schema: str) -> Validate:
    """Return a function that judges a text, or returns None where it cannot."""
    try:
        made = validator_of(schema)
    except MissingExtraError:
        raise
    except Exception:  # the schema is not valid, or refers to what is not there
        return lambda text: None

    def judged(text: str) -> bool | None:
        try:
            return made.is_valid(json.loads(text))
        except Exception:  # numbers that it does not read
            return None

    return judged
