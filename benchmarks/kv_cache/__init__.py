"""Memories beside the cache of keys and values."""
