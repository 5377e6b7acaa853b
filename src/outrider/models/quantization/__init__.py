"""Quantizes weights to fewer bits."""
