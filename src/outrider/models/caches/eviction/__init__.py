"""Policies that decide which keys and values stay in a cache."""
