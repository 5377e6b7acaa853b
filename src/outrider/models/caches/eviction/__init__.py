"""Policies that decide which rows of a text a cache keeps, for each layer and key-value head."""
