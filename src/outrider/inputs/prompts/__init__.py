"""Turns user inputs into a `Prompt`."""
