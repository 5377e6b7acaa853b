"""Explains a selection: which chunks were read, when, and why, as an image, a page and figures."""
