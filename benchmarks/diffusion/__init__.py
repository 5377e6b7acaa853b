"""Texts whose positions are written in any order, and values in place of tokens."""
