"""Search strategies on a real model, beside baselines at an equal budget."""
