"""Models with early exits (S2D)."""
