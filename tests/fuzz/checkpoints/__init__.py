"""Checkpoints whose files are wrong."""
