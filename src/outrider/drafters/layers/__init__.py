"""Drafters that run some layers of the target."""
