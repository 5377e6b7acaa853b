"""Strategies that keep the best few branches, token by token."""
