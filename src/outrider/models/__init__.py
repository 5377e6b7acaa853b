"""Runners: what reads tokens and gives logits."""
