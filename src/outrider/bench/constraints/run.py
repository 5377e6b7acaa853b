"""Measures all schemas with all engines, one line for each, and continues what was interrupted."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from outrider.bench.constraints.cases import Case
from outrider.bench.constraints.child import Child
from outrider.bench.constraints.engines import Vocabulary
from outrider.core.errors import OptionError, writing
from outrider.core.values import JsonValue

Record = dict[str, JsonValue]
Told = Callable[[str, int, int], None]


def measure_all(
    cases: Sequence[Case],
    engines: Sequence[str],
    vocabulary: Vocabulary,
    *,
    seconds: float = 60.0,
    out: Path | None = None,
    resume: bool = False,
    told: Told = lambda engine, done, total: None,
) -> list[Record]:
    """Measure each case with each engine; return a record for each.

    Args:
        cases: schemas with instances.
        engines: see `ENGINES`; schema by schema, so that the machine is the same for all.
        vocabulary: of the model.
        seconds: limit of one schema; a slower one is counted as `slow`.
        out: a file of JSON lines, written as it goes.
        resume: whether records that `out` has are kept.
        told: called with the engine, the number of measured pairs, and of all.

    Raises:
        OptionError: an engine does not start, or the file cannot be written or read.
    """
    known = _known(out) if out is not None and resume else {}
    if out is not None and not resume:
        with writing(out):
            out.write_text("", encoding="utf-8")
    found: list[Record] = []
    total = len(cases) * len(engines)
    with ExitStack() as stack:
        children = [stack.enter_context(Child(each, vocabulary, seconds)) for each in engines]
        for case in cases:
            for child in children:
                record = known.get((child.engine, *case.key))
                if record is None:
                    record = child.measure(case)
                    _append(out, record)
                found.append(record)
                told(child.engine, len(found), total)
    return found


def _append(out: Path | None, record: Record) -> None:
    if out is not None:
        with writing(out), out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def _known(out: Path) -> dict[tuple[str, str, str], Record]:
    """Return the records of a file; cut off a last line that is not complete."""
    if not out.exists():
        return {}
    found: dict[tuple[str, str, str], Record] = {}
    whole = 0
    try:
        for line in out.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            record = json.loads(line)
            found[record["engine"], record["split"], record["id"]] = record
            whole += len(line)
        with out.open("r+b") as rest:
            rest.truncate(whole)
    except (ValueError, TypeError, KeyError):
        raise OptionError(f"{out} is damaged at byte {whole}", hint="Use another file") from None
    except OSError as error:
        raise OptionError(f"{out} cannot be read: {error.strerror}") from None
    return found
