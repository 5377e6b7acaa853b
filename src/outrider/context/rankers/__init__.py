"""Rankers: they score the chunks of a long input."""
