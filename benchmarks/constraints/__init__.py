"""Measurements of texts that follow a grammar, on a real model."""
