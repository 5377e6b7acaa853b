"""What the conformance kits raise."""


class ConformanceError(AssertionError):
    """A point of a contract does not hold. `str(error)` is one line."""


def require(holds: bool, problem: str) -> None:
    """Raise `ConformanceError` with `problem` unless `holds`."""
    if not holds:
        raise ConformanceError(problem)
