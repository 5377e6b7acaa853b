"""Builds answers from the events of the engine: objects, and chunks of streams."""
