"""Search and sampling strategies beside baselines with an equal budget, on small models."""
