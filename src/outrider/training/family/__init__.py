"""Families of language models: a target, and smaller models distilled from it."""
