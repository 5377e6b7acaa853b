"""Captions: images in, sentences out; how good they are, and how they get better."""
