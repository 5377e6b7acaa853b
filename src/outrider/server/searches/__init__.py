"""Searches that clients may ask for."""
