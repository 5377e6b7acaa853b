"""Drafters that run a trained head on hidden states of the target."""
