"""Caches of keys and values: which rows belong to which text."""
