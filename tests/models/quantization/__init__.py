"""Weights of fewer bits."""
