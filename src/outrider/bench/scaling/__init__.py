"""Models of a larger cost with the same outputs, for measuring speed."""
