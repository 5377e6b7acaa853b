"""The joint distribution of the first tokens, counted, against that of a tabular target."""

from outrider.testing.distribution import (
    DRAFT,
    LENGTH,
    PROMPT,
    QUALIFIER,
    TARGET,
    VOCAB,
    Trial,
)

__all__ = ["DRAFT", "LENGTH", "PROMPT", "QUALIFIER", "TARGET", "VOCAB", "Trial"]
