"""Measurements of text that follows a grammar."""
