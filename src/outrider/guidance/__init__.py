"""Guidance: mixes the next-token scores of several readings of a text."""
