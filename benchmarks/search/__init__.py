"""Search strategies on real models."""
