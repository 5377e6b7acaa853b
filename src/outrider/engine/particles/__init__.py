"""Samples of a model's distribution over allowed texts: from a prompt to weighted texts."""
