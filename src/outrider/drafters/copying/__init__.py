"""Drafters that copy from the text, from earlier requests, or from a corpus."""
