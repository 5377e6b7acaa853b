"""Trained rows behind a prompt."""
