"""Strategies of two models with different tokenizers."""
