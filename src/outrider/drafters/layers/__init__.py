"""Self-speculative drafters, which run a subset of the target's layers."""
