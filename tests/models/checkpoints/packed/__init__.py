"""Quantised checkpoints of other makers."""
