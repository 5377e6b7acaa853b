"""Measures all schemas with all engines, one line for each, and continues what was interrupted."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from outrider.bench.constraints.cases import Case
from outrider.bench.constraints.child import Child
from outrider.bench.constraints.engines import Vocabulary
from outrider.bench.constraints.records import Record, Records

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
        seconds: of the processor, limit of one schema; a slower one is counted as `slow`.
        out: a file of JSON lines, written as it goes.
        resume: whether records that `out` has are kept.
        told: called with the engine, the number of measured pairs, and of all.

    Raises:
        OptionError: an engine does not start, or the file cannot be written or read.
    """
    records = Records(out, ("engine", "split", "id"), resume=resume)
    found: list[Record] = []
    total = len(cases) * len(engines)
    with ExitStack() as stack:
        children = [stack.enter_context(Child(each, vocabulary, seconds)) for each in engines]
        for case in cases:
            for child in children:
                record = records.find(child.engine, *case.key)
                if record is None:
                    record = child.measure(case)
                    records.add(record)
                found.append(record)
                told(child.engine, len(found), total)
    return found
