"""Lists the modules of all selectors that can be named; the default comes first."""

SELECTORS = (
    "context.rankers.apce",
    "context.rankers.static",
    "context.rankers.cosine",
    "context.rankers.bm25",
    "context.rankers.first",
    "context.rankers.ends",
    "context.rankers.random",
)
