"""Heads among the models of `load`: which one drafts, and whether it fits its target."""
