"""Every selector that can be named, and the file that implements it; the default first."""

SELECTORS = (
    "context.rankers.apce",
    "context.rankers.static",
    "context.rankers.cosine",
    "context.rankers.bm25",
    "context.rankers.first",
    "context.rankers.ends",
    "context.rankers.random",
)
