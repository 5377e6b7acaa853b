"""Search strategies on real models, each beside a baseline."""
