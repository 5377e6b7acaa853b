"""Reads image files, and images in messages."""
