"""Learners: they train a draft model on the texts that the target writes while it serves."""
