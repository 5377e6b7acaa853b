"""Search strategies on a generator."""
