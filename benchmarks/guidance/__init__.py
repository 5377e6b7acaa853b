"""Guidance methods on small models, beside baselines at an equal budget."""
