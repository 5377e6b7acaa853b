"""The error of the conformance tests."""


class ConformanceError(AssertionError):
    """A point of a contract is violated. `str(error)` is one line."""


def require(holds: bool, problem: str) -> None:
    """Raise `ConformanceError` with the message `problem` unless `holds` is true."""
    if not holds:
        raise ConformanceError(problem)
