"""Shared parts of all training: configuration, corpus, models, loop, saved state."""
