"""Drafters that combine or wrap other drafters."""
