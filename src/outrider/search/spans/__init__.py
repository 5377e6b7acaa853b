"""Strategies that return spans of a given text."""
