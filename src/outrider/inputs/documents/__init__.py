"""Reads files as text, and splits text into chunks."""
